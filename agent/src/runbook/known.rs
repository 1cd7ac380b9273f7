//! What is known of a cluster when its runbook is printed: from the configuration, from this host, and from server and repository as far as they
//! answer within seconds. What could not be looked up is said, and left for who reads it to fill in.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use super::shell::{self, Programs};
use crate::open::Context;
use crate::status::View;
use crate::{exit, preflight, sql};

/// How long server and repository may take.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// Everything that a scenario is written from.
pub struct Known<'a> {
    pub context: &'a Context,
    pub programs: Programs,
    /// The agent's unit.
    pub unit: String,
    /// The data directory, where it is configured or the server has said it.
    pub data_directory: Option<PathBuf>,
    /// The major version.
    pub major: Option<u32>,
    /// Oid and place of each tablespace; none where neither server nor repository could be asked.
    pub tablespaces: Option<Vec<(u32, String)>>,
    /// What `status` sees.
    pub view: View,
    /// The id by which others know this host's signing key.
    pub signing_id: Option<String>,
    /// What could not be looked up, and why.
    pub missing: Vec<String>,
}

/// What the server says.
struct Server {
    version: u32,
    data_directory: PathBuf,
    tablespaces: Vec<(u32, String)>,
}

impl<'a> Known<'a> {
    /// What stands in the configuration and on this host. Asks nobody.
    pub fn offline(context: &'a Context) -> Self {
        let config = std::path::absolute(&context.path).unwrap_or_else(|_| context.path.clone());
        let is_default = config == std::path::Path::new(config::DEFAULT_PATH);
        let several = context.config.clusters.len() > 1;
        let name = &context.cluster.name;
        Known {
            context,
            programs: Programs::new(
                (!is_default).then_some(config.as_path()),
                several.then_some(name.as_str()),
            ),
            unit: match several {
                true => format!("seawall@{name}"),
                false => "seawall".to_owned(),
            },
            data_directory: context.cluster.postgres.data_directory.clone(),
            major: None,
            tablespaces: None,
            view: View::of_this_host(context),
            signing_id: context
                .host_keys()
                .ok()
                .map(|keys| keys.signing.verifying().id().to_string()),
            missing: Vec::new(),
        }
    }

    /// The same, and what server and repository say.
    pub async fn look(context: &'a Context) -> Self {
        let mut known = Self::offline(context);
        let (server, view) = tokio::join!(
            tokio::time::timeout(LOOK_MAX, ask_server(context)),
            tokio::time::timeout(LOOK_MAX, View::look(context)),
        );
        let late = || anyhow::anyhow!("no answer within {} s", LOOK_MAX.as_secs());
        match view.unwrap_or_else(|_| Err(late())) {
            Ok(view) => known.view = view,
            Err(error) => known.view.repository_error = Some(one_line(&error)),
        }
        if let Some(error) = &known.view.repository_error {
            let first = error.lines().next().unwrap_or_default();
            known
                .missing
                .push(format!("the repository (backups, tablespaces, estimate): {first}"));
        }
        if let Some(newest) = &known.view.newest {
            known.major = Some(newest.server_version / 10_000);
            let tablespaces = newest.tablespaces.iter().filter(|tablespace| !tablespace.in_place);
            let place = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            known.tablespaces = Some(
                tablespaces
                    .map(|tablespace| (tablespace.oid, place(&tablespace.location)))
                    .collect(),
            );
        }
        match server.unwrap_or_else(|_| Err(late())) {
            Ok(server) => {
                known.major = Some(server.version / 10_000);
                // Those of the backup, where it is known: a restore refuses to map others.
                known.tablespaces.get_or_insert(server.tablespaces);
                known.data_directory.get_or_insert(server.data_directory);
            }
            Err(error) => known.missing.push(format!(
                "the server (version, data directory, tablespaces): {}",
                one_line(&error)
            )),
        }
        known
    }

    /// The line that says where the data directory is.
    pub fn data(&self) -> String {
        let major = self.major.map_or_else(|| "MAJOR".to_owned(), |major| major.to_string());
        let guessed = || PathBuf::from(format!("/var/lib/postgresql/{major}/main"));
        let directory = self.data_directory.clone().unwrap_or_else(guessed);
        format!("DATA={}", shell::path(&directory))
    }

    /// Says so when the data directory in [`Known::data`] is a guess.
    pub fn data_note(&self) -> &'static str {
        match self.data_directory {
            Some(_) => "",
            None => " (The data directory is a guess: `data_directory` is not set, and the server could not be asked.)",
        }
    }

    /// Tablespaces stay where they are: options for a restore over the cluster, with a blank before each.
    pub fn maps_in_place(&self) -> String {
        let map =
            |(_, place): &(u32, String)| format!(" --tablespace-map {}", shell::quote(&format!("{place}={place}")));
        self.tablespaces.iter().flatten().map(map).collect()
    }

    /// Tablespaces go below "$PLACE", beside the restored data directory.
    pub fn maps_beside(&self) -> String {
        let map = |(oid, _): &(u32, String)| format!(" --tablespace-map \"{oid}=$PLACE/tablespace-{oid}\"");
        self.tablespaces.iter().flatten().map(map).collect()
    }

    /// Host and port for psql and connection strings: the first server of the configuration.
    pub fn address(&self) -> (String, String) {
        let options = &self.context.cluster.postgres.options;
        let first = |key: &str, default: &str| {
            let text = options.get(key).map_or("", String::as_str);
            let first = text.split(',').next().unwrap_or_default().trim();
            if first.is_empty() { default } else { first }.to_owned()
        };
        (first("host", "/var/run/postgresql"), first("port", "5432"))
    }

    /// True when the configuration names several servers of the cluster.
    pub fn has_other_servers(&self) -> bool {
        let host = self.context.cluster.postgres.options.get("host");
        host.is_some_and(|host| host.contains(','))
    }

    /// `pg_ctl`, where it is known to be.
    pub fn pg_ctl(&self) -> String {
        let configured = self.context.cluster.postgres.bin_directory.clone();
        let usual = self
            .major
            .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")))
            .filter(|directory| directory.join("pg_ctl").exists());
        match configured.or(usual) {
            Some(directory) => shell::path(&directory.join("pg_ctl")),
            None => "pg_ctl".to_owned(),
        }
    }
}

async fn ask_server(context: &Context) -> anyhow::Result<Server> {
    let client = sql::connect(&context.connect_options()?).await?;
    let version = preflight::show(&client, "server_version_num").await?;
    let data_directory = preflight::show(&client, "data_directory").await?.into();
    // In-place tablespaces (developers' option) have no place of their own.
    let query = "SELECT oid, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace";
    let rows = client
        .query(query, &[])
        .await
        .context("cannot ask for the tablespaces")?;
    let places = rows.iter().map(|row| (row.get::<_, u32>(0), row.get::<_, String>(1)));
    Ok(Server {
        version: version.parse().context("the server's version is no number")?,
        data_directory,
        tablespaces: places.filter(|(_, place)| place.starts_with('/')).collect(),
    })
}

fn one_line(error: &anyhow::Error) -> String {
    let text = exit::describe(error);
    let text = text.trim_start_matches("wal-agent: ");
    text.lines().next().unwrap_or_default().to_owned()
}
