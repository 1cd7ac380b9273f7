//! Several hosts: which server is chosen, that SQL and replication go to the same one, and what is said when none will do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::TcpListener;

use anyhow::{Context, Result};
use tests::cluster::query_one;
use tests::config_file::ConfigFile;
use tests::ports::free_ports;
use tests::program::Output;
use tests::seawall::json_array;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, Secured, StopMode, case, user, wait_until};
use tokio_postgres::Client;

const REFUSED: i32 = 3;
const UNREACHABLE: i32 = 6;

/// A host as it is written in the configuration, and its port.
type Place = (String, String);

fn place(cluster: &Cluster) -> Place {
    (cluster.socket_dir().display().to_string(), cluster.port().to_string())
}

/// Nobody is there.
fn nobody() -> Result<Place> {
    Ok(("127.0.0.1".to_owned(), free_ports(1)?[0].to_string()))
}

fn hosts(config: ConfigFile, places: &[&Place]) -> Result<ConfigFile> {
    let list = |part: fn(&Place) -> &str| places.iter().map(|place| part(place)).collect::<Vec<_>>().join(",");
    config
        .set("cluster.main.postgres.host", list(|place| &place.0))?
        .set("cluster.main.postgres.port", list(|place| &place.1))
}

/// A primary and its standby.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    /// Opened before anybody was refused.
    sessions: [Client; 2],
    config: ConfigFile,
    slots: u32,
}

impl Pair {
    async fn start(scratch: &Scratch, major: u32) -> Result<Self> {
        let primary = Cluster::builder(major)
            .setting("log_connections", "on")
            .create(scratch, "main")
            .await?;
        let data = scratch.dir("standby")?.join("data");
        let mut command = primary.tool("pg_basebackup");
        command
            .args(["--checkpoint=fast", "--write-recovery-conf", "--no-sync", "-D"])
            .arg(&data);
        user::run(command, DEADLINE).await?;
        let standby = Cluster::adopt(scratch, "standby", &data)?;
        standby.start().await?;
        let config = Seawall::local_config(scratch, &primary)?;
        Seawall::configure(config.clone())?.init().await?;
        Ok(Self {
            sessions: [primary.connect().await?, standby.connect().await?],
            primary,
            standby,
            config,
            slots: 0,
        })
    }

    /// `wal-agent init` with a slot of its own, which tells where the replication connection went.
    async fn init(&mut self, places: &[&Place], target: &str) -> Result<(Output, String)> {
        self.slots += 1;
        let slot = format!("slot_{}", self.slots);
        let config = hosts(self.config.clone(), places)?
            .set("cluster.main.postgres.target_session_attrs", target)?
            .set("cluster.main.postgres.connect_timeout", 2)?
            .set("cluster.main.wal.slot", slot.as_str())?;
        let seawall = Seawall::configure_as(config, "hosts")?;
        Ok((seawall.agent.run(&["init", "--single-host"]).await?, slot))
    }

    /// Insists that this one is chosen, for SQL and for replication.
    async fn chooses(&mut self, places: &[&Place], target: &str, wants_standby: bool) -> Result<()> {
        let before = [connections(&self.primary), connections(&self.standby)];
        let (output, slot) = self.init(places, target).await?;
        output.assert_code(0)?;
        let (chosen, left) = if wants_standby { (1, 0) } else { (0, 1) };
        let count =
            format!("select count(*) from pg_replication_slots where slot_name in ('{slot}', '{slot}_overlap')");
        let context = format!("{target} of {places:?}");
        assert_eq!(query_one(&self.sessions[chosen], &count).await?, "2", "{context}");
        assert_eq!(query_one(&self.sessions[left], &count).await?, "0", "{context}");
        let now = [connections(&self.primary), connections(&self.standby)];
        let new = |which: usize| (now[which].0 - before[which].0, now[which].1 - before[which].1);
        let (sql, replication) = new(chosen);
        assert!(sql >= 1 && replication >= 2, "{context}: {sql} {replication}");
        assert_eq!(new(left).1, 0, "{context}");
        let drop = format!("select pg_drop_replication_slot(n) from unnest(array['{slot}', '{slot}_overlap']) n");
        self.sessions[chosen].batch_execute(&drop).await?;
        Ok(())
    }
}

/// SQL and replication connections of the agent that a server has let in.
fn connections(cluster: &Cluster) -> (usize, usize) {
    let log = cluster.server_log();
    let of_agent = |line: &&str| {
        line.contains("connection authorized") && line.split_whitespace().any(|word| word == "application_name=seawall")
    };
    let (replication, sql): (Vec<&str>, Vec<&str>) = log
        .lines()
        .filter(of_agent)
        .partition(|line| line.contains("replication connection"));
    (sql.len(), replication.len())
}

async fn choice(scratch: &Scratch, major: u32) -> Result<()> {
    let mut pair = Pair::start(scratch, major).await?;
    let (primary, standby) = (place(&pair.primary), place(&pair.standby));
    let (first, second) = ([&primary, &standby], [&standby, &primary]);
    for (target, with_primary_first, with_standby_first) in [
        ("any", false, true),
        ("primary", false, false),
        ("read-write", false, false),
        ("standby", true, true),
        ("read-only", true, true),
        ("prefer-standby", true, true),
    ] {
        pair.chooses(&first, target, with_primary_first).await?;
        pair.chooses(&second, target, with_standby_first).await?;
    }
    pair.chooses(&[&primary], "prefer-standby", false).await?;

    // The first is down, silent, or refuses us.
    pair.chooses(&[&nobody()?, &primary], "any", false).await?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let silent_place = ("127.0.0.1".to_owned(), silent.local_addr()?.port().to_string());
    pair.chooses(&[&silent_place, &nobody()?, &standby, &primary], "primary", false)
        .await?;
    refuse_everybody(&pair.standby).await?;
    pair.chooses(&second, "any", false).await?;
    pair.chooses(&second, "prefer-standby", false).await?;

    // No server will do: each is named with its reason.
    let (output, _) = pair.init(&[&nobody()?, &standby], "any").await?;
    output.assert_refused(
        UNREACHABLE,
        &["2 addresses", "127.0.0.1:", "refused (os error", &standby.0, "rejects"],
    )?;
    let (output, _) = pair.init(&[&standby], "any").await?;
    output.assert_refused(REFUSED, &["rejects"])?;
    let (output, _) = pair.init(&second, "standby").await?;
    let words = [
        &*standby.0,
        "rejects",
        &primary.0,
        "it is a primary, and target_session_attrs is standby",
    ];
    output.assert_refused(UNREACHABLE, &words)?;
    let (output, _) = pair.init(&[&silent_place], "any").await?;
    output.assert_refused(UNREACHABLE, &["no answer within 2 s", &silent_place.1])?;

    // A primary whose sessions are read-only by default is a primary all the same.
    pair.primary.append_setting("default_transaction_read_only", "on")?;
    pair.primary.exec("select pg_reload_conf()").await?;
    let read_only = async || {
        let answer = pair.primary.query_one("show transaction_read_only").await;
        answer.is_ok_and(|on| on == "on")
    };
    wait_until("the setting", DEADLINE, read_only).await?;
    let (output, _) = pair.init(&[&primary], "read-write").await?;
    output.assert_refused(
        UNREACHABLE,
        &[
            "a primary whose sessions are read-only",
            "target_session_attrs is read-write",
        ],
    )?;
    pair.chooses(&[&primary], "read-only", false).await?;
    pair.chooses(&[&primary], "primary", false).await?;

    pair.primary.stop(StopMode::Immediate).await?;
    let (output, _) = pair.init(&[&primary, &standby], "primary").await?;
    output.assert_refused(UNREACHABLE, &[&primary.0, "no such file", &standby.0])
}

/// Its next connections are rejected, but for those of the test.
async fn refuse_everybody(cluster: &Cluster) -> Result<()> {
    let text = "local postgres postgres reject\nlocal replication all reject\n";
    let path = cluster.etc_directory().join("pg_hba.conf");
    let before = cluster.connect().await?;
    std::fs::write(&path, text)?;
    before.batch_execute("select pg_reload_conf()").await?;
    wait_until("the refusal", DEADLINE, async || cluster.connect().await.is_err()).await
}

#[test]
fn the_wanted_server_of_postgres_15_is_chosen() {
    case("hosts_15", async |scratch| choice(&scratch, 15).await);
}

#[test]
fn the_wanted_server_of_postgres_17_is_chosen() {
    case("hosts_17", async |scratch| choice(&scratch, 17).await);
}

/// 14 is not among them: the one that set-up can get has no pg_basebackup.
#[test]
fn the_wanted_server_of_the_other_majors_that_are_here_is_chosen() {
    for major in [13, 16, 18] {
        case("hosts_others", async |scratch| choice(&scratch, major).await);
    }
}

/// From nothing to a restored database, with all that a careful operator sets.
async fn whole_path(scratch: &Scratch, major: u32) -> Result<()> {
    let secured = Secured::start(scratch, major).await?;
    secured.certificates.sign("twofold", "ca", "twofold", None, 2).await?;
    let text = |file: &str| secured.certificates.text(file);
    let (ca, certificate, key) = (text("ca.crt"), text("twofold.crt"), text("twofold.key"));
    let port = format!("{},{}", nobody()?.1, secured.cluster.port());
    let careful = secured.installation(&[
        ("host", "127.0.0.1,localhost"),
        ("port", &port),
        ("user", "twofold"),
        ("sslmode", "verify-full"),
        ("sslrootcert", &ca),
        ("sslcert", &certificate),
        ("sslkey", &key),
        ("channel_binding", "require"),
        ("target_session_attrs", "primary"),
    ])?;
    // A repository of its own: nothing of it was made over a socket.
    let config = careful
        .config
        .set("repository.url", format!("file://{}", scratch.join("second").display()))?
        .set("keys.directory", scratch.dir("second-keys")?.display().to_string())?
        .set("cluster.main.wal.slot", "careful")?;
    let seawall = Seawall::configure_as(config, "careful")?;
    seawall.init().await?;
    let agent = seawall.run().await?;
    secured
        .cluster
        .exec("create table t as select generate_series(1, 1000) i")
        .await?;
    seawall.backup().await?;
    secured
        .cluster
        .exec("insert into t select generate_series(1, 234)")
        .await?;
    seawall.wait_archived(&secured.cluster).await?;
    let check = seawall.agent.run_ok(&["check", "--json"]).await?.json()?;
    assert_eq!(json_array(&check, "findings")?.len(), 0, "{check}");
    let status = seawall.status().await?;
    assert_eq!(status["slot"]["active"], true, "{status}");
    // Every connection of the agent was TLS with SCRAM and a certificate; the stream still is.
    let open = "select count(*) || ' ' || bool_and(ssl) || ' ' || max(client_dn) from pg_stat_ssl
                join pg_stat_replication using (pid) where application_name = 'seawall'";
    assert_eq!(secured.cluster.query_one(open).await?, "1 true /CN=twofold");
    let log = secured.cluster.server_log();
    let of_role = log.lines().filter(|line| line.contains("authorized: user=twofold "));
    assert!(of_role.clone().count() > 5 && of_role.clone().all(|line| line.contains("SSL enabled")));
    // The slots of the first installation are still there, and nobody uses them.
    let orphans = "a slot that nobody streams from holds WAL back";
    assert_eq!(agent.log().matches(orphans).count(), 2, "{}", agent.log());
    agent.assert_no_unexpected_warnings(&[orphans])?;
    agent.stop(DEADLINE).await?;
    let restored = seawall.restore_to("restored", &["--target", "latest"]).await?;
    let rows = restored.query_one("select count(*) from t").await.context("restored")?;
    assert_eq!(rows, "1234");
    Ok(())
}

#[test]
fn postgres_15_is_protected_over_tls_with_certificate_binding_and_two_hosts() {
    case("whole_path_15", async |scratch| whole_path(&scratch, 15).await);
}

#[test]
fn postgres_17_is_protected_over_tls_with_certificate_binding_and_two_hosts() {
    case("whole_path_17", async |scratch| whole_path(&scratch, 17).await);
}

#[test]
fn so_are_the_other_majors_that_are_here() {
    for major in [13, 14, 18] {
        case("whole_path_others", async |scratch| whole_path(&scratch, major).await);
    }
}
