//! From what the configuration describes to what can be captured.

mod dump;

use std::sync::Arc;

use anyhow::Context as _;
use components::Component;
use components::config::Config;
use components::files::{Excludes, Files};
use components::git::Git;
use components::redis::{Address, Dial, Login, Plain, Redis, Sentinels, Servers, Tls, Waits};
use config::{
    ComponentKind, ConfigSource, FilesSource, GitSource, Postgres, RedisAddress, RedisServers, RedisSource, RedisTls,
    SecretText,
};
use pg::conninfo::{ClientCert, RootCert, SslMode};
use store::object::Secret;

use crate::output;

/// What the configuration describes; `cluster`: how the server is reached in whose part of the repository it is; `is_for_point`: nothing that
/// was there before may be missing, so no replica that lags will do.
///
/// # Errors
/// A pattern or a certificate cannot be used.
pub fn of_kind(kind: &ComponentKind, cluster: &Postgres, is_for_point: bool) -> anyhow::Result<Box<dyn Component>> {
    Ok(match kind {
        ComponentKind::Files(source) => Box::new(files(source)?),
        ComponentKind::Redis(source) => Box::new(redis(source, is_for_point)?),
        ComponentKind::Dump(source) => Box::new(dump::dump(source, cluster)?),
        ComponentKind::Git(source) => Box::new(git(source)?),
        ComponentKind::Config(source) => Box::new(configuration(source)?),
    })
}

fn files(source: &FilesSource) -> anyhow::Result<Files> {
    Ok(Files {
        paths: source.paths.clone(),
        excludes: Excludes::new(&source.exclude)?,
        one_file_system: source.one_file_system,
        reads_all: source.read_all,
        now_us: Arc::new(output::now_us),
    })
}

fn git(source: &GitSource) -> anyhow::Result<Git> {
    Ok(Git {
        repositories: source.repositories.clone(),
        excludes: Excludes::new(&source.exclude)?,
        now_us: Arc::new(output::now_us),
    })
}

fn configuration(source: &ConfigSource) -> anyhow::Result<Config> {
    Ok(Config {
        paths: source.paths.clone(),
        excludes: Excludes::new(&source.exclude)?,
        secrets: Excludes::new(&source.secrets)?,
        recipient: source.recipient,
        now_us: Arc::new(output::now_us),
    })
}

fn redis(source: &RedisSource, is_for_point: bool) -> anyhow::Result<Redis> {
    let servers = match &source.servers {
        RedisServers::One(one) => Servers::One(address(one)),
        RedisServers::Sentinels {
            addresses,
            master,
            user,
            password,
        } => Servers::Sentinels(Sentinels {
            addresses: addresses.iter().map(address).collect(),
            master: master.clone(),
            login: login(user.as_deref(), password.as_ref()),
        }),
    };
    let dial: Arc<dyn Dial> = match &source.tls {
        None => Arc::new(Plain),
        Some(tls) => Arc::new(encrypted(tls)?),
    };
    Ok(Redis {
        servers,
        login: login(source.user.as_deref(), source.password.as_ref()),
        dial,
        waits: Waits::default(),
        spares_master: !is_for_point,
        program: source.server.clone(),
        scratch: std::env::temp_dir(),
        now_us: Arc::new(output::now_us),
    })
}

fn address(address: &RedisAddress) -> Address {
    match address {
        RedisAddress::Tcp(host, port) => Address::Tcp(host.clone(), *port),
        RedisAddress::Unix(path) => Address::Unix(path.clone()),
    }
}

fn login(user: Option<&str>, password: Option<&SecretText>) -> Option<Login> {
    Some(Login {
        user: user.map(str::to_owned),
        password: Secret::new(password?.expose()),
    })
}

/// The certificate's chain and its name are checked: of what cannot be trusted nothing is captured.
fn encrypted(tls: &RedisTls) -> anyhow::Result<Tls> {
    let root = match &tls.ca_file {
        Some(file) => RootCert::File(file.clone()),
        None => RootCert::System,
    };
    let client = tls.client.as_ref().map(|(certificate, key)| ClientCert {
        certificate: certificate.clone(),
        key: key.clone(),
    });
    let config = pg::tls::client_config_of(SslMode::VerifyFull, Some(&root), client.as_ref())
        .context("the certificates for Redis cannot be used")?;
    Ok(Tls {
        config: Arc::new(config),
        server_name: tls.server_name.clone(),
    })
}
