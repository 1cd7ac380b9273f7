use std::sync::Arc;

use super::super::period::{Period, PeriodRecipient, Signer, SignerRole};
use super::super::{Created, NewObject, Repository, Writer, create};
use super::*;
use crate::id::BackupId;
use crate::keys::file::OpeningKeyFile;
use crate::keys::{Recipient, Role, SigningKey};
use crate::object::ObjectName;
use crate::object::memory::MemoryStore;
use crate::seal::Secret32;
use crate::testing::NEW_REPOSITORY;

struct Stage {
    memory: MemoryStore,
    store: Arc<dyn ObjectStore>,
    created: Created,
    restorer: Arc<Repository>,
}

async fn stage() -> Stage {
    let memory = MemoryStore::new();
    let store: Arc<dyn ObjectStore> = Arc::new(memory.clone());
    let (created, _) = create(Arc::clone(&store), NEW_REPOSITORY, |_| Ok(())).await.unwrap();
    let restorer = Arc::new(
        Repository::open_as_restorer(Arc::clone(&store), &created.restore)
            .await
            .unwrap(),
    );
    Stage {
        memory,
        store,
        created,
        restorer,
    }
}

impl Stage {
    async fn host(&self) -> Arc<Repository> {
        Arc::new(
            Repository::open_as_host(Arc::clone(&self.store), &self.created.host)
                .await
                .unwrap(),
        )
    }

    fn host_signing(&self) -> SigningKey {
        SigningKey::from_seed(self.created.host.signing.seed().clone()).unwrap()
    }

    async fn next(&self, change: impl FnOnce(&mut Period)) -> u64 {
        let mut period = self.restorer.period();
        change(&mut period);
        let root = self.created.restore.signing().unwrap();
        self.restorer.next_period(period, root, 0).await.unwrap()
    }
}

/// Puts an object of a kind, signed by that key, and says how it can be read.
async fn put(repository: &Arc<Repository>, signing: SigningKey, kind: Kind, number: u64) -> ObjectName {
    let writer = Writer::new(Arc::clone(repository), Arc::new(signing), 0);
    let name = repository
        .layout()
        .ledger(BackupId::from_parts(number, [1; 10]))
        .unwrap();
    writer.put(&name, NewObject::metadata(kind, b"x", 0)).await.unwrap();
    name
}

fn why(result: Result<super::super::ReadObject, StoreError>) -> String {
    match result {
        Err(error @ StoreError::Untrusted { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_list_of_keys_that_the_root_has_not_signed_is_passed_over() {
    let stage = stage().await;
    let host = stage.host().await;
    let thief = SigningKey::from_seed(Secret32::generate().unwrap()).unwrap();
    let mut period = host.period();
    period.number = 2;
    period.root = Some(thief.verifying().0.into());
    period.signers = vec![Signer::new(thief.verifying(), "thief", SignerRole::Host)];
    // He has all that the host has.
    host.put_period(&period, stage.host_signing(), 0).await.unwrap();
    assert_eq!(stage.host().await.period().number, 1);
    let keeper = Repository::open_as_keeper(Arc::clone(&stage.store), &stage.created.maintenance);
    assert_eq!(keeper.await.unwrap().period().number, 1);
    host.refresh().await.unwrap();
    assert_eq!(host.period_number(), 1);
    // The next genuine one takes a number that is free.
    assert_eq!(stage.next(|_| ()).await, 3);
    host.refresh().await.unwrap();
    assert_eq!(host.period_number(), 3);
    let error = stage
        .restorer
        .next_period(host.period(), stage.host_signing(), 0)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::WrongKey { .. }), "{error}");
}

#[tokio::test]
async fn the_root_changes_hands_and_everybody_follows() {
    let stage = stage().await;
    let host = stage.host().await;
    let seed = Secret32::generate().unwrap();
    let new = OpeningKeyFile {
        key: OpeningKey::generate().unwrap(),
        root: Some(SigningKey::from_seed(seed.clone()).unwrap().verifying()),
        signing_seed: Some(seed),
        ..stage.created.restore.clone()
    };
    let recipient = PeriodRecipient::from(&Recipient {
        name: "new".into(),
        role: Role::Restore,
        public: new.key.public(),
    });
    stage
        .next(|period| {
            period.hand_over(new.root.unwrap());
            period.recipients.push(recipient);
        })
        .await;
    let as_new = Repository::open_as_restorer(Arc::clone(&stage.store), &new);
    assert!(as_new.await.is_err(), "the new root has signed nothing yet");
    let restorer = Arc::clone(&stage.restorer);
    let mut period = restorer.period();
    period.recipients.retain(|recipient| recipient.name != "restore");
    restorer.next_period(period, new.signing().unwrap(), 0).await.unwrap();
    let old_root = stage.created.restore.signing().unwrap();
    // What the old root signs from now on does not count, whatever number it takes.
    let mut stolen = restorer.period();
    stolen.number = 9;
    let writer = Writer::new(Arc::clone(&restorer), Arc::new(old_root), 0);
    let name = restorer.layout().keys(9).unwrap();
    let plain = crate::session::to_cbor(&stolen).unwrap();
    let (bytes, _) = writer
        .encode(&name, NewObject::metadata(Kind::Keys, &plain, 0))
        .unwrap();
    stage.memory.overwrite(&name, bytes);
    host.refresh().await.unwrap();
    assert_eq!(host.period().root(), new.root);
    assert!(host.period_number() < 9);
    let as_new = Repository::open_as_restorer(Arc::clone(&stage.store), &new)
        .await
        .unwrap();
    assert_eq!(as_new.period().recipients.len(), 2);
    // What was genuine can still be told from what was planted.
    for number in [1, 2, 3] {
        host.read(&host.layout().keys(number).unwrap()).await.unwrap();
    }
    // The old key opens what it could, and is told.
    let as_old = Repository::open_as_restorer(Arc::clone(&stage.store), &stage.created.restore)
        .await
        .unwrap();
    assert!(as_old.period_number() < as_new.period_number());
}

#[tokio::test]
async fn what_a_revoked_signer_wrote_before_counts_and_is_not_built_on() {
    let stage = stage().await;
    let host = stage.host().await;
    stage.memory.set_now(1_000);
    let before = put(&host, stage.host_signing(), Kind::Ledger, 1).await;
    let id = stage.host_signing().verifying().id();
    let number = stage
        .next(|period| {
            period.afresh = 2;
            for signer in period.signers.iter_mut().filter(|signer| signer.id == id) {
                signer.revoked_us = Some(2_000_000);
            }
        })
        .await;
    stage.memory.set_now(2_001);
    let after = put(&host, stage.host_signing(), Kind::Ledger, 2).await;
    host.refresh().await.unwrap();
    assert_eq!(host.period_number(), number);
    let read = host.read(&before).await.unwrap();
    assert!(!host.may_be_built_on(&read));
    assert!(why(host.read(&after).await).contains("revoked"));
    assert!(host.read_header(&before).await.is_ok() && host.read_header(&after).await.is_err());
    // Another host's counts, once it knows of the period.
    let other = SigningKey::from_seed(Secret32::generate().unwrap()).unwrap();
    let verifying = other.verifying();
    stage
        .next(|period| period.signers.push(Signer::new(verifying, "other", SignerRole::Host)))
        .await;
    host.refresh().await.unwrap();
    let good = put(&host, other, Kind::Ledger, 3).await;
    let read = host.read(&good).await.unwrap();
    assert!(host.may_be_built_on(&read));
}

#[tokio::test]
async fn only_the_keeper_says_what_is_to_be_deleted() {
    let stage = stage().await;
    let host = stage.host().await;
    let by_host = put(&host, stage.host_signing(), Kind::Condemned, 1).await;
    assert!(why(host.read(&by_host).await).contains("may not write"));
    let keeper = stage.created.maintenance.signing().unwrap();
    let by_keeper = put(&host, keeper, Kind::Condemned, 2).await;
    assert!(host.read(&by_keeper).await.is_ok());
    let keeper = stage.created.maintenance.signing().unwrap();
    let manifest = put(&host, keeper, Kind::Manifest, 3).await;
    assert!(why(host.read(&manifest).await).contains("may not write"));
    let root = stage.created.restore.signing().unwrap();
    let manifest = put(&host, root, Kind::Manifest, 4).await;
    assert!(why(host.read(&manifest).await).contains("may not write"));
    let nobody = SigningKey::from_seed(Secret32::generate().unwrap()).unwrap();
    let planted = put(&host, nobody, Kind::Ledger, 5).await;
    assert!(why(host.read(&planted).await).contains("not a signer"));
}
