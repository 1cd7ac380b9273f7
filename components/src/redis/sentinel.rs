//! Asks sentinels where the servers of a master's name are.
//!
//! Source: "Sentinel API" at redis.io/docs/latest/operate/oss_and_stack/management/sentinel: `SENTINEL GET-MASTER-ADDR-BY-NAME`, `SENTINEL
//! REPLICAS` (called `SLAVES` before Redis 5), whose answer is a list of names and values for each replica.

use std::collections::HashMap;

use super::dial::{Address, Dial};
use super::link::{Link, Login, Waits};
use super::refusal;
use super::resp::Reply;
use crate::ComponentError;

/// Sentinels, and whom to ask them for.
#[derive(Clone, Debug)]
pub struct Sentinels {
    /// Where they are: the first that answers counts.
    pub addresses: Vec<Address>,
    /// Name of the master.
    pub master: String,
    /// Who we are to them; they have passwords of their own.
    pub login: Option<Login>,
}

/// The servers in the order in which they are to be tried: replicas that are in step, the one that is furthest first; the master last.
///
/// # Errors
/// No sentinel answers, or none knows the name.
pub async fn servers(dial: &dyn Dial, sentinels: &Sentinels, waits: Waits) -> Result<Vec<Address>, ComponentError> {
    let mut failed = None;
    for sentinel in &sentinels.addresses {
        match ask(dial, sentinel, sentinels, waits).await {
            Ok(servers) => return Ok(servers),
            Err(error) => {
                tracing::warn!(sentinel = %sentinel, error = %error, "a sentinel gave no answer");
                failed = Some(error);
            }
        }
    }
    Err(failed.unwrap_or_else(|| ComponentError::refused("no sentinel is named", "Name one at least.")))
}

async fn ask(
    dial: &dyn Dial,
    sentinel: &Address,
    sentinels: &Sentinels,
    waits: Waits,
) -> Result<Vec<Address>, ComponentError> {
    let mut link = Link::open(dial, sentinel, sentinels.login.as_ref(), waits).await?;
    let name = sentinels.master.as_str();
    let master = match link.must(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]).await? {
        Reply::List(parts) => match parts.as_slice() {
            [host, port] => address(host.text(), port.text()),
            _ => None,
        },
        _ => None,
    };
    let Some(master) = master else {
        return Err(ComponentError::System {
            what: format!("sentinel at {sentinel}"),
            detail: format!("it knows no master \"{name}\""),
            hint: "`SENTINEL MASTERS` prints the names that it knows.".into(),
        });
    };
    let replicas = match link.ask(&["SENTINEL", "REPLICAS", name]).await? {
        Reply::Error(_) => link.must(&["SENTINEL", "SLAVES", name]).await?,
        replicas => replicas,
    };
    let Reply::List(replicas) = replicas else {
        return Err(refusal::strange(sentinel, "SENTINEL REPLICAS", "it is no list"));
    };
    let mut servers = in_step(&replicas);
    servers.push(master);
    Ok(servers)
}

/// Those of whom the sentinel thinks well, the furthest first.
fn in_step(replicas: &[Reply]) -> Vec<Address> {
    let mut found: Vec<(u64, Address)> = replicas.iter().filter_map(replica).collect();
    found.sort_by_key(|(offset, _)| std::cmp::Reverse(*offset));
    found.into_iter().map(|(_, address)| address).collect()
}

fn replica(reply: &Reply) -> Option<(u64, Address)> {
    let Reply::List(items) = reply else { return None };
    let pairs = items.chunks_exact(2).filter_map(|pair| match pair {
        [name, value] => Some((name.text()?, value.text()?)),
        _ => None,
    });
    let fields: HashMap<&str, &str> = pairs.collect();
    let is_away = fields
        .get("flags")?
        .split(',')
        .any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected"));
    if is_away || fields.get("master-link-status") != Some(&"ok") {
        return None;
    }
    let offset = fields.get("slave-repl-offset").and_then(|offset| offset.parse().ok());
    let address = address(fields.get("ip").copied(), fields.get("port").copied())?;
    Some((offset.unwrap_or(0), address))
}

fn address(host: Option<&str>, port: Option<&str>) -> Option<Address> {
    Some(Address::Tcp(host?.to_owned(), port?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_away_are_left_out_and_the_furthest_comes_first() {
        let replica = |port: &str, flags: &str, link: &str, offset: &str| {
            let fields = [
                "ip",
                "127.0.0.1",
                "port",
                port,
                "flags",
                flags,
                "master-link-status",
                link,
            ];
            let fields = fields.into_iter().chain(["slave-repl-offset", offset]);
            Reply::List(fields.map(|text| Reply::Text(text.to_owned())).collect())
        };
        let replicas = [
            replica("1", "slave", "ok", "5"),
            replica("2", "slave,s_down", "ok", "9"),
            replica("3", "slave", "err", "9"),
            replica("4", "slave", "ok", "7"),
            Reply::Nothing,
        ];
        let ports: Vec<String> = in_step(&replicas).iter().map(Address::to_string).collect();
        assert_eq!(ports, ["127.0.0.1:4", "127.0.0.1:1"]);
    }
}
