//! A small application on three systems: an order is a receipt in a directory, a key in Redis and, last, a row in PostgreSQL. A row without the
//! other two is what a restore to one point must never show.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio_postgres::Client;

use crate::config_file::ConfigFile;
use crate::redis::{self, Redis};
use crate::{Cluster, Scratch, Seawall, user};

/// Whom Redis knows the agent as, and may do no more than it needs.
const USER: &str = "seawall";
const PASSWORD: &str = "only-for-copies";

/// The application.
#[derive(Debug)]
pub struct Shop {
    pub cluster: Cluster,
    pub redis: Redis,
    pub receipts: PathBuf,
}

/// What is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orders {
    pub rows: BTreeSet<i64>,
    pub without_receipt: Vec<i64>,
    pub without_key: Vec<i64>,
}

impl Shop {
    /// Starts its systems.
    pub async fn open(scratch: &Scratch) -> Result<Self> {
        let cluster = Cluster::builder(15).create(scratch, "shop").await?;
        cluster
            .exec("create table orders (number bigint primary key, at timestamptz default clock_timestamp())")
            .await?;
        let acl = format!("user {USER} on >{PASSWORD} resetkeys +psync +replconf +ping +info");
        let redis = Redis::start(scratch, "redis", &acl).await?;
        let receipts = scratch.dir("receipts")?;
        Ok(Shop {
            cluster,
            redis,
            receipts,
        })
    }

    /// A configuration that has all of it in one group.
    pub fn config(&self, scratch: &Scratch) -> Result<ConfigFile> {
        let password = scratch.join("redis-password");
        crate::scratch::write_private(&password, PASSWORD.as_bytes())?;
        Seawall::local_config(scratch, &self.cluster)?
            .set("component.receipts.kind", "files")?
            .set("component.receipts.paths", vec![self.receipts.display().to_string()])?
            .set("component.cache.kind", "redis")?
            .set("component.cache.address", format!("127.0.0.1:{}", self.redis.port))?
            .set("component.cache.user", USER)?
            .set("component.cache.password_file", password.display().to_string())?
            .set("component.cache.server", self.redis.program.display().to_string())?
            .set("group.shop.components", vec!["receipts".to_owned(), "cache".to_owned()])
    }

    /// Takes an order.
    pub async fn order(&self, client: &Client, keys: &mut redis::Client, number: i64) -> Result<()> {
        let receipt = self.receipts.join(number.to_string());
        fs::write(&receipt, format!("receipt of order {number}"))?;
        user::give(&receipt)?;
        keys.ask(&format!("SET order:{number} paid"))?;
        client.execute("insert into orders values ($1)", &[&number]).await?;
        Ok(())
    }
}

/// Looks what is there, and what of it does not belong together.
pub async fn look(client: &Client, keys: &mut redis::Client, receipts: &Path) -> Result<Orders> {
    let mut orders = Orders::default();
    for row in client.query("select number from orders order by 1", &[]).await? {
        let number: i64 = row.get(0);
        orders.rows.insert(number);
        let receipt = fs::read_to_string(receipts.join(number.to_string())).unwrap_or_default();
        if receipt != format!("receipt of order {number}") {
            orders.without_receipt.push(number);
        }
        if keys.ask(&format!("GET order:{number}"))? != "paid" {
            orders.without_key.push(number);
        }
    }
    Ok(orders)
}
