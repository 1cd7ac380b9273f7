//! Databases of a server, as the configuration names them.

use std::collections::BTreeMap;
use std::sync::Arc;

use components::ComponentError;
use components::dump::{Dump, Places, Selection, Server, Trials, patterns};
use config::{DumpSource, Postgres};
use store::object::Secret;

use crate::output;

/// libpq's variables for its keys.
const VARIABLES: [(&str, &str); 11] = [
    ("host", "PGHOST"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("dbname", "PGDATABASE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
];

/// What is dumped, and how.
///
/// # Errors
/// A pattern cannot be used.
pub fn dump(source: &DumpSource, cluster: &Postgres) -> Result<Dump, ComponentError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path);
    Ok(Dump {
        server: server(source, cluster, &|name| std::env::var(name).ok()),
        database: None,
        selection: Selection {
            databases: patterns(&source.databases)?,
            exclude_databases: patterns(&source.exclude_databases)?,
            schemas: source.schemas.clone(),
            exclude_schemas: source.exclude_schemas.clone(),
            tables: source.tables.clone(),
            exclude_tables: source.exclude_tables.clone(),
        },
        globals: source.globals,
        role_passwords: source.role_passwords,
        counts_rows: source.row_counts,
        jobs: source.jobs,
        places: Places {
            directory: source.bin_directory.clone(),
            path: cluster.bin_directory.iter().cloned().chain(directories).collect(),
        },
        trials: Some(Trials {
            programs: None,
            scratch: std::env::temp_dir(),
            user: None,
        }),
        now_us: Arc::new(output::now_us),
    })
}

/// Where a host is named, nothing comes from the cluster or the environment: neither knows that server.
fn server(source: &DumpSource, cluster: &Postgres, env: &dyn Fn(&str) -> Option<String>) -> Server {
    let is_ours = !source.options.contains_key("host");
    let mut environment = BTreeMap::new();
    for name in ["PATH", "HOME"] {
        environment.extend(env(name).map(|text| (name.to_owned(), text)));
    }
    for (key, variable) in VARIABLES {
        let of_cluster = || {
            let text = cluster.options.get(key).cloned().or_else(|| env(variable));
            text.filter(|_| is_ours)
        };
        let text = source.options.get(key).cloned().or_else(of_cluster);
        environment.extend(text.map(|text| (variable.to_owned(), text)));
    }
    // Every server has it; libpq would take the one that is named like the role.
    environment
        .entry("PGDATABASE".into())
        .or_insert_with(|| "postgres".into());
    // Another role has another password.
    let is_same_role = is_ours && !source.options.contains_key("user");
    let passfile = source.passfile.clone().or_else(|| {
        let text = cluster.passfile.clone().or_else(|| env("PGPASSFILE").map(Into::into));
        text.filter(|_| is_ours)
    });
    environment.extend(passfile.map(|path| ("PGPASSFILE".to_owned(), path.display().to_string())));
    let own = source.password.as_ref().map(|password| Secret::new(password.expose()));
    let of_cluster = || {
        let password = cluster.password.as_ref();
        let text = password.map(|password| Secret::new(password.expose()));
        text.or_else(|| env("PGPASSWORD").map(Secret::new))
    };
    Server {
        conninfo: String::new(),
        environment,
        password: own.or_else(|| is_same_role.then(of_cluster).flatten()),
    }
}

#[cfg(test)]
mod tests {
    use config::SecretText;

    use super::*;

    fn source(options: &[(&str, &str)]) -> DumpSource {
        DumpSource {
            options: options
                .iter()
                .map(|(key, text)| ((*key).into(), (*text).into()))
                .collect(),
            password: None,
            passfile: None,
            bin_directory: None,
            databases: vec![],
            exclude_databases: vec![],
            schemas: vec![],
            exclude_schemas: vec![],
            tables: vec![],
            exclude_tables: vec![],
            globals: true,
            role_passwords: true,
            row_counts: true,
            jobs: 2,
        }
    }

    #[test]
    fn the_clusters_password_goes_to_its_own_server_and_role_alone() {
        let cluster = Postgres {
            options: [("host", "/run/pg"), ("user", "seawall"), ("dbname", "postgres")]
                .map(|(key, text)| (key.to_owned(), text.to_owned()))
                .into(),
            data_directory: None,
            bin_directory: None,
            password: Some(SecretText::new("secret".into())),
            passfile: Some("/etc/seawall/pgpass".into()),
        };
        let env = |name: &str| (name == "PGSSLMODE").then(|| "require".to_owned());
        let of = |options: &[(&str, &str)]| server(&source(options), &cluster, &env);

        let ours = of(&[("port", "5433")]);
        assert_eq!(ours.password.as_ref().map(Secret::expose), Some("secret"));
        assert_eq!(
            (ours.environment["PGHOST"].as_str(), ours.environment["PGPORT"].as_str()),
            ("/run/pg", "5433")
        );
        assert_eq!(ours.environment["PGSSLMODE"], "require");
        let other_role = of(&[("user", "dumper")]);
        assert!(other_role.password.is_none() && other_role.environment["PGPASSFILE"] == "/etc/seawall/pgpass");
        let other_server = of(&[("host", "db")]);
        assert!(other_server.password.is_none());
        assert_eq!(
            other_server.environment.keys().collect::<Vec<_>>(),
            ["PGDATABASE", "PGHOST"]
        );
    }
}
