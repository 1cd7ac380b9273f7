//! A cluster whose host has a key to the bucket that may put new objects, get and list; the owner has everything.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use aws_sdk_s3::Client;
use serde_json::Value;
use tests::create_only::CreateOnly;
use tests::s3_client::{client, client_as};
use tests::scratch::write_private;
use tests::seawall::{BUCKET, PREFIX, json_array, json_str};
use tests::wait::DEADLINE;
use tests::weed::{HOST_KEY_ID, HOST_SECRET};
use tests::{Cluster, ConfigFile, Scratch, Seawall, Weed};

/// What the host may not do, whatever the server's rights of writers are otherwise.
const DENIED: [&str; 10] = [
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:PutLifecycleConfiguration",
    "s3:PutBucketVersioning",
    "s3:PutBucketPolicy",
    "s3:DeleteBucketPolicy",
    "s3:DeleteBucket",
    "s3:PutObjectAcl",
    "s3:PutBucketAcl",
    "s3:PutBucketTagging",
];

pub struct Stage {
    cluster: Cluster,
    pub owner: Seawall,
    host: Seawall,
    pub thief: Seawall,
    pub admin: Client,
    pub stolen: Client,
    pub guard: CreateOnly,
    _weed: Weed,
}

impl Stage {
    pub async fn new(scratch: &Scratch) -> Result<Self> {
        let weed = Weed::start(scratch).await?;
        let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
        cluster.exec("create table t (i bigint)").await?;
        let owner = Seawall::s3(scratch, &cluster, &weed).await?;
        let admin = client(&weed);
        let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": [{
            "Sid": "NoMoreThanPut", "Effect": "Deny", "Action": DENIED,
            "Principal": { "AWS": "arn:aws:iam::000000000000:user/host" },
            "Resource": [format!("arn:aws:s3:::{BUCKET}"), format!("arn:aws:s3:::{BUCKET}/*")],
        }]});
        let put = admin.put_bucket_policy().bucket(BUCKET).policy(policy.to_string());
        put.send().await?;

        let guard = CreateOnly::before(&weed, (HOST_KEY_ID, HOST_SECRET)).await?;
        let keys = scratch.join("keys");
        let stolen = scratch.join("stolen.key");
        write_private(&stolen, &fs::read(keys.join("host.key"))?)?;
        let config = owner.config.clone();
        let secret = scratch.write("etc/host-secret", HOST_SECRET)?.display().to_string();
        let away = scratch.join("away.key").display().to_string();
        let config = config
            .set("repository.s3.endpoint", tests::S3Server::endpoint(&guard))?
            .set("repository.s3.access_key_id", HOST_KEY_ID)?
            .set("repository.s3.secret_access_key_file", secret)?
            .set("keys.maintenance_key", away.clone())?;
        let with = |config: ConfigFile, host: String, restore: String, name: &str| {
            Seawall::configure_as(
                config.set("keys.host_key", host)?.set("keys.restore_key", restore)?,
                name,
            )
        };
        let stolen_text = stolen.display().to_string();
        Ok(Stage {
            host: with(
                config.clone(),
                keys.join("host.key").display().to_string(),
                away,
                "host",
            )?,
            thief: with(config, stolen_text.clone(), stolen_text, "thief")?,
            stolen: client_as(&guard, HOST_KEY_ID, HOST_SECRET),
            cluster,
            owner,
            admin,
            guard,
            _weed: weed,
        })
    }

    /// A hundred rows more and a backup of them, with the rights of the host.
    pub async fn more(&self) -> Result<Value> {
        let sql = "insert into t select (select coalesce(max(i), 0) from t) + g from generate_series(1, 100) g";
        self.cluster.exec(sql).await?;
        let agent = self.host.run().await?;
        let backup = self.host.backup().await?;
        self.host.wait_archived(&self.cluster).await?;
        agent.stop(DEADLINE).await?;
        Ok(backup)
    }

    /// Restored by the owner.
    pub async fn rows(&self, name: &str, target: &[&str]) -> Result<String> {
        let restored = self.owner.restore_to(name, target).await?;
        restored.query_one("select count(*) from t").await
    }

    /// The key that signs for the host.
    pub async fn signer(&self) -> Result<String> {
        let shown = self.owner.agent.run_ok(&["key", "show", "--json"]).await?.json()?;
        let signers = json_array(&shown, "signers")?;
        let host = signers.iter().find(|signer| signer["role"] == "host");
        Ok(json_str(host.context("no host")?, "id")?.to_owned())
    }

    /// Everything in the bucket, as the owner sees it.
    pub async fn bytes(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut out = BTreeMap::new();
        let mut pages = self.admin.list_objects_v2().bucket(BUCKET).into_paginator().send();
        while let Some(page) = pages.next().await {
            for object in page?.contents() {
                let key = object.key().context("no key")?;
                let got = self.admin.get_object().bucket(BUCKET).key(key).send().await?;
                out.insert(key.to_owned(), got.body.collect().await?.to_vec());
            }
        }
        Ok(out)
    }

    /// An object of the cluster, as a key of the bucket.
    pub fn key(&self, name: &str) -> String {
        format!("{PREFIX}/clusters/{}/{name}", tests::seawall::CLUSTER)
    }
}
