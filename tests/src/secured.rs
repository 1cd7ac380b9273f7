//! A server that is reached over TCP with TLS, roles for each way to authenticate, and a probe of both our connections to it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use pg::conninfo::ConnectOptions;
use pg::replication::{ReplicationError, ReplicationSession};

use crate::certificates::Certificates;
use crate::cluster::Cluster;
use crate::program::Output;
use crate::scratch::{Scratch, write_private};
use crate::seawall::Seawall;

/// The password of every role.
pub const PASSWORD: &str = "secret";

/// One line each: how the role of this name proves itself.
const HBA: &str = "\
local   all                  postgres              trust
local   replication          postgres              trust
hostssl postgres,replication scram     127.0.0.0/8 scram-sha-256
host    postgres,replication plain     127.0.0.0/8 scram-sha-256
hostssl postgres,replication md5       127.0.0.0/8 md5
hostssl postgres,replication clear     127.0.0.0/8 password
hostssl postgres,replication trusted   127.0.0.0/8 trust
hostssl postgres,replication certified 127.0.0.0/8 cert
hostssl postgres,replication twofold   127.0.0.0/8 scram-sha-256 clientcert=verify-full
";

const ROLES: [&str; 7] = ["scram", "plain", "md5", "clear", "trusted", "certified", "twofold"];

/// Keys of `[cluster.main.postgres]`.
pub type Keys<'a> = [(&'a str, &'a str)];

/// The server, initialised for Seawall. Its certificate is for `localhost` and 127.0.0.1, signed by `ca`.
#[derive(Debug)]
pub struct Secured {
    pub cluster: Cluster,
    pub certificates: Certificates,
    pub seawall: Seawall,
    password_file: String,
    port: String,
}

impl Secured {
    pub async fn start(scratch: &Scratch, major: u32) -> Result<Self> {
        let certificates = Certificates::create(scratch).await?;
        certificates
            .sign("server", "ca", "server", Some("DNS:localhost,IP:127.0.0.1"), 2)
            .await?;
        let cluster = Cluster::builder(major)
            .tcp(true)
            // A second address of this machine, which the certificate does not name.
            .setting("listen_addresses", "127.0.0.1,127.0.0.2")
            .setting("ssl", "on")
            .setting("ssl_cert_file", &certificates.text("server.crt"))
            .setting("ssl_key_file", &certificates.text("server.key"))
            .setting("ssl_ca_file", &certificates.text("ca.crt"))
            .setting("log_connections", "on")
            .create(scratch, "main")
            .await?;
        create_roles(&cluster).await?;
        write_private(&cluster.etc_directory().join("pg_hba.conf"), HBA.as_bytes())?;
        cluster.exec("select pg_reload_conf()").await?;
        Ok(Self {
            seawall: Seawall::local(scratch, &cluster).await?,
            password_file: scratch.write("etc/pg-password", PASSWORD)?.display().to_string(),
            port: cluster.port().to_string(),
            certificates,
            cluster,
        })
    }

    /// An installation that connects as these keys say; by TCP, with the password, where they do not say otherwise.
    pub fn installation(&self, keys: &Keys<'_>) -> Result<Seawall> {
        let mut config = self.seawall.config.clone();
        for (key, value) in self.defaults().into_iter().chain(keys.iter().copied()) {
            config = config.set(&format!("cluster.main.postgres.{key}"), value)?;
        }
        Seawall::configure_as(config, "secured")
    }

    /// `wal-agent init` once more: it opens an SQL connection and a replication connection, and changes nothing.
    pub async fn agent(&self, keys: &Keys<'_>) -> Result<Output> {
        let installation = self.installation(keys)?;
        installation.agent.run(&["init", "--single-host"]).await
    }

    /// A replication connection alone.
    pub async fn session(&self, keys: &Keys<'_>) -> Result<ReplicationSession, ReplicationError> {
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in self.defaults().into_iter().chain(keys.iter().copied()) {
            match key {
                "password_file" => all.insert("password".into(), fs::read_to_string(value).unwrap_or_default()),
                _ => all.insert(key.into(), value.into()),
            };
        }
        let options = ConnectOptions::from_keys(&all, &|_| None, None).expect("good keys");
        ReplicationSession::connect(&options).await
    }

    /// Insists that both get in.
    pub async fn let_in(&self, keys: &Keys<'_>) -> Result<()> {
        self.agent(keys).await?.assert_code(0)?;
        let session = self.session(keys).await;
        let mut session = session.unwrap_or_else(|error| panic!("{keys:?}: {error}"));
        session.identify_system().await?;
        Ok(())
    }

    /// Insists that neither gets in, and that the agent says these words. Returns what the replication connection said.
    pub async fn keep_out(&self, keys: &Keys<'_>, code: i32, words: &[&str]) -> Result<ReplicationError> {
        self.agent(keys).await?.assert_refused(code, words)?;
        match self.session(keys).await {
            Ok(_) => panic!("{keys:?} let a replication connection in"),
            Err(error) => Ok(error),
        }
    }

    fn defaults(&self) -> [(&str, &str); 3] {
        [
            ("host", "localhost"),
            ("port", &self.port),
            ("password_file", &self.password_file),
        ]
    }
}

async fn create_roles(cluster: &Cluster) -> Result<()> {
    let functions = if cluster.major() >= 15 {
        "pg_backup_start(text, boolean), pg_backup_stop(boolean)"
    } else {
        "pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)"
    };
    for role in ROLES {
        let encryption = if role == "md5" { "md5" } else { "scram-sha-256" };
        let sql = format!(
            "set password_encryption = '{encryption}';
             create role {role} login replication password '{PASSWORD}';
             grant pg_read_all_settings to {role};
             grant execute on function {functions} to {role};"
        );
        cluster.exec(&sql).await?;
    }
    Ok(())
}
