//! What the thief tries.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, Delete,
    ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter, ObjectIdentifier, ObjectLockRetention,
    ObjectLockRetentionMode, VersioningConfiguration,
};
use store::envelope::{Kind, Protection};
use store::id::BackupId;
use store::inventory::{Inventory, Named};
use store::keys::file::read_host;
use store::object::s3::{S3Options, S3Store};
use store::object::{ObjectName, Secret};
use store::records::{Condemned, GIVEN_UP, LostWal};
use store::repository::{NewObject, Repository, Writer};
use store::testing::manifest::empty_manifest;
use store::{StoreError, keys::file::HostKeys};
use tests::S3Server as _;
use tests::seawall::{BUCKET, PREFIX};
use tests::weed::{HOST_KEY_ID, HOST_SECRET};

use super::stage::Stage;

type Refusals = Vec<(String, bool)>;

fn note<T, E: ProvideErrorMetadata>(refusals: &mut Refusals, what: String, answer: Result<T, E>) {
    refusals.push((what, answer.is_err()));
}

fn judge(refusals: Refusals) -> Result<usize> {
    let done: Vec<&String> = refusals
        .iter()
        .filter(|(_, refused)| !refused)
        .map(|(what, _)| what)
        .collect();
    ensure!(done.is_empty(), "was not refused: {done:?}");
    Ok(refusals.len())
}

/// Deletes, overwrites and changes, each object in every way.
pub async fn on_objects(stage: &Stage, objects: &BTreeMap<String, Vec<u8>>) -> Result<usize> {
    let client = &stage.stolen;
    let mut refusals = Refusals::new();
    for key in objects.keys() {
        let delete = client.delete_object().bucket(BUCKET).key(key);
        note(&mut refusals, format!("delete {key}"), delete.send().await);
        let which = ObjectIdentifier::builder().key(key).build()?;
        let batch = client.delete_objects().bucket(BUCKET);
        let batch = batch.delete(Delete::builder().objects(which).build()?).send().await;
        let deleted = batch.is_ok_and(|answer| !answer.deleted().is_empty());
        refusals.push((format!("delete {key} in a list"), !deleted));
        let put = || {
            client
                .put_object()
                .bucket(BUCKET)
                .key(key)
                .body(ByteStream::from_static(b"not yours any more"))
        };
        note(&mut refusals, format!("overwrite {key}"), put().send().await);
        note(
            &mut refusals,
            format!("create {key}"),
            put().if_none_match("*").send().await,
        );
        let etag = client.head_object().bucket(BUCKET).key(key).send().await?.e_tag;
        note(
            &mut refusals,
            format!("replace {key}"),
            put().set_if_match(etag).send().await,
        );
        let copy = client.copy_object().bucket(BUCKET).key(key);
        let other = objects.keys().find(|other| *other != key).context("only one object")?;
        let copy = copy.copy_source(format!("{BUCKET}/{other}")).send().await;
        note(&mut refusals, format!("copy over {key}"), copy);
        note(&mut refusals, format!("parts over {key}"), in_parts(stage, key).await);
        let retention = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Governance)
            .retain_until_date(DateTime::from_secs(1));
        let retention = client
            .put_object_retention()
            .bucket(BUCKET)
            .key(key)
            .bypass_governance_retention(true)
            .retention(retention.build());
        note(&mut refusals, format!("unlock {key}"), retention.send().await);
    }
    judge(refusals)
}

async fn in_parts(stage: &Stage, key: &str) -> Result<(), aws_sdk_s3::Error> {
    let client = &stage.stolen;
    let begun = client.create_multipart_upload().bucket(BUCKET).key(key).send().await?;
    let id = begun.upload_id.unwrap_or_default();
    let part = client
        .upload_part()
        .bucket(BUCKET)
        .key(key)
        .upload_id(&id)
        .part_number(1);
    let part = part.body(ByteStream::from_static(b"mine")).send().await?;
    let part = CompletedPart::builder().set_e_tag(part.e_tag).part_number(1).build();
    let parts = CompletedMultipartUpload::builder().parts(part).build();
    let end = client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .upload_id(&id);
    end.multipart_upload(parts).send().await?;
    Ok(())
}

/// Rules by which the server would delete, or let him.
pub async fn on_the_bucket(stage: &Stage) -> Result<usize> {
    let client = &stage.stolen;
    let mut refusals = Refusals::new();
    let rule = LifecycleRule::builder()
        .id("expire")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix("").build())
        .expiration(LifecycleExpiration::builder().days(1).build())
        .build()?;
    let lifecycle = BucketLifecycleConfiguration::builder().rules(rule).build()?;
    let expire = client.put_bucket_lifecycle_configuration().bucket(BUCKET);
    let expire = expire.lifecycle_configuration(lifecycle).send().await;
    note(&mut refusals, "expire everything".into(), expire);
    let all =
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"*"}]}"#;
    let policy = client.put_bucket_policy().bucket(BUCKET).policy(all).send().await;
    note(&mut refusals, "another policy".into(), policy);
    let policy = client.delete_bucket_policy().bucket(BUCKET).send().await;
    note(&mut refusals, "no policy".into(), policy);
    let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Suspended);
    let versions = client
        .put_bucket_versioning()
        .bucket(BUCKET)
        .versioning_configuration(versions.build());
    note(&mut refusals, "no versions".into(), versions.send().await);
    let bucket = client.delete_bucket().bucket(BUCKET).send().await;
    note(&mut refusals, "delete the bucket".into(), bucket);
    judge(refusals)
}

/// The repository, by everything that the host has.
async fn open(stage: &Stage) -> Result<(Arc<Repository>, HostKeys)> {
    let keys = stage.thief.config.text();
    let keys: toml::Table = keys.parse()?;
    let path = keys["keys"]["host_key"].as_str().context("no key")?;
    let keys = read_host(Path::new(path))?;
    let options = S3Options {
        prefix: PREFIX.into(),
        endpoint: Some(stage.guard.endpoint()),
        path_style: true,
        access_key_id: Some(HOST_KEY_ID.into()),
        secret_access_key: Some(Secret::new(HOST_SECRET)),
        ..S3Options::new(BUCKET, "us-east-1")
    };
    let repository = Repository::open_as_host(Arc::new(S3Store::open(options)?), &keys).await?;
    Ok((Arc::new(repository), keys))
}

/// Decrypts what is sealed to the restore key; counts what could not be.
pub async fn on_contents(stage: &Stage) -> Result<usize> {
    let (repository, _) = open(stage).await?;
    let inventory = Inventory::of(&repository).await?;
    let mut sealed = 0;
    for (named, meta) in &inventory.objects {
        let is_sealed = repository.read(&meta.name).await?.head.protection == Protection::Session;
        let opened = match named {
            Named::Pack(id) => repository
                .fetch_pack(*id)
                .await
                .and_then(|pack| pack.chunk(0, &repository)),
            Named::Wal(_) => repository.read_plain(&meta.name).await.map(|(_, plain)| plain),
            _ => continue,
        };
        if is_sealed {
            ensure!(
                matches!(opened, Err(StoreError::KeyMissing { .. })),
                "{} was opened",
                meta.name
            );
            sealed += 1;
        }
    }
    ensure!(sealed > 4, "only {sealed} objects are sealed");
    Ok(sealed)
}

/// Puts garbage where it may do harm; some of it is well formed and signed by the stolen key.
pub async fn plant(stage: &Stage) -> Result<Vec<String>> {
    let (repository, keys) = open(stage).await?;
    let lineage = repository.lineages().await?.first().context("no lineage")?.id;
    let new = |number: u64| BackupId::from_parts(u64::try_from(i64::MAX).unwrap() >> 16, [number as u8; 10]);
    let objects = stage.bytes().await?;
    let like = |part: &str| -> Result<Vec<u8>> {
        let found = objects.iter().find(|(key, _)| key.contains(part));
        Ok(found.with_context(|| format!("no {part}"))?.1.clone())
    };
    let raw: [(String, Vec<u8>); 8] = [
        ("packs/00/00112233445566778899aabbccddeeff".into(), vec![7; 5000]),
        (format!("backups/{}", new(1)), vec![7; 5000]),
        (format!("backups/{}", new(2)), like("/backups/")?),
        (format!("lineages/{}", new(3)), vec![7; 500]),
        (format!("lineages/{}", new(4)), like("/lineages/")?),
        ("keys/7".into(), like("/keys/1")?),
        (format!("index/{}", new(5)), vec![7; 500]),
        ("wal/garbage".into(), vec![7; 500]),
    ];
    let mut planted = Vec::new();
    for (name, body) in raw {
        let key = stage.key(&name);
        let put = stage.stolen.put_object().bucket(BUCKET).key(&key);
        put.if_none_match("*").body(body.into()).send().await?;
        planted.push(key);
    }

    let writer = Writer::new(Arc::clone(&repository), Arc::new(keys.signing), 0);
    let manifest = empty_manifest(new(6), lineage);
    let packs = Inventory::of(&repository).await?.objects.into_iter();
    let packs = packs.filter_map(|(named, _)| match named {
        Named::Pack(id) => Some(id),
        _ => None,
    });
    let condemned = Condemned {
        host: "h".into(),
        packs: packs.collect(),
        ..Condemned::default()
    };
    let hole = LostWal {
        lineage,
        timeline: 1,
        start: 1 << 20,
        end: 8 << 20,
        reason: GIVEN_UP.into(),
        found_us: 0,
        host: "h".into(),
    };
    let layout = repository.layout();
    let signed: [(ObjectName, Kind, Vec<u8>); 3] = [
        (
            layout.manifest(manifest.backup)?,
            Kind::Manifest,
            minicbor::to_vec(&manifest)?,
        ),
        (
            layout.condemned(new(7))?,
            Kind::Condemned,
            minicbor::to_vec(&condemned)?,
        ),
        (layout.hole(&hole, 9)?, Kind::Hole, minicbor::to_vec(&hole)?),
    ];
    for (name, kind, plain) in signed {
        let _ = writer.put(&name, NewObject::metadata(kind, &plain, 0)).await?;
        planted.push(format!("{PREFIX}/{name}"));
    }
    Ok(planted)
}
