//! A repository in memory, a directory of files, and a reader that brings a backup back as bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use crate::chunk::ChunkReference;
use crate::file_table::EntryClass;
use crate::id::{BackupId, LineageId, PackId};
use crate::keys::SigningKey;
use crate::limits::{PAGE_BYTES, RELATION_CHUNK_PAGES_MAX};
use crate::manifest::Manifest;
use crate::object::ObjectStore;
use crate::page_map::Source;
use crate::repository::{Created, Maps, NewRepository, Repository, create};
use crate::session::Purpose;
use crate::testing::manifest::empty_manifest;

pub(super) const NOW_US: i64 = 1_790_000_000_000_000;

pub(super) struct Fixture {
    pub(super) directory: tempfile::TempDir,
    pub(super) host: Arc<Repository>,
    pub(super) restorer: Repository,
    pub(super) created: Created,
    pub(super) lineage: LineageId,
    pub(super) progress: Arc<Progress>,
    backups: u64,
}

pub(super) type Files = BTreeMap<String, (EntryClass, Vec<u8>)>;

impl Fixture {
    pub(super) async fn new(store: Arc<dyn ObjectStore>) -> Self {
        let new = NewRepository {
            cluster: "main",
            host: "h",
            now_us: NOW_US,
            now_text: "2026-09-21T00:00:00Z",
            creator: "test",
        };
        let (created, host) = create(Arc::clone(&store), new, |_| Ok(())).await.unwrap();
        let restorer = Repository::open_as_restorer(store, &created.restore).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        Fixture {
            directory,
            host,
            restorer,
            created,
            lineage: LineageId::from_parts(1, [1; 10]),
            progress: Arc::default(),
            backups: 0,
        }
    }

    pub(super) fn writer(&self) -> Arc<Writer> {
        let signing = SigningKey::from_seed(self.created.host.signing.seed().clone()).unwrap();
        Arc::new(Writer::new(Arc::clone(&self.host), Arc::new(signing), 0))
    }

    pub(super) async fn parent(&self, id: BackupId) -> Parent {
        Parent::load(&self.host, Some(self.host.manifest(id).await.unwrap()), None)
            .await
            .unwrap()
    }

    pub(super) async fn inputs(&self, parent: Option<BackupId>) -> PipelineInputs {
        let session = self.host.begin_session(self.lineage, Purpose::Backup).unwrap();
        PipelineInputs {
            pace: Arc::default(),
            backup: BackupId::from_parts(1001 + self.backups, [9; 10]),
            writer: self.writer(),
            session,
            lineage: self.lineage,
            parent: match parent {
                Some(id) => Some(self.parent(id).await),
                None => None,
            },
            index: self.host.chunk_index().await.unwrap(),
            filter: PackFilter::default(),
            check: Arc::new(BelieveAll),
            jobs: 3,
            uploads_in_flight: 2,
            milestones_every: Duration::from_secs(3600),
            progress: Arc::clone(&self.progress),
            now_us: Arc::new(|| NOW_US),
        }
    }

    /// Writes the files and gives a job for each.
    pub(super) fn jobs(&self, files: &Files) -> Vec<FileJob> {
        let write = |(path, (class, bytes)): (&String, &(EntryClass, Vec<u8>))| {
            let on_disk: PathBuf = self.directory.path().join(path.replace('/', "_"));
            std::fs::write(&on_disk, bytes).unwrap();
            FileJob {
                path: path.clone().into_bytes(),
                on_disk,
                mode: 0o600,
                size: bytes.len() as u64,
                class: *class,
                first_block: 0,
                is_judged: true,
                may_vanish: true,
                attributes: None,
            }
        };
        files.iter().map(write).collect()
    }

    /// Copies and commits; gives the id of the backup and what the pipeline said.
    pub(super) async fn backup(
        &mut self,
        inputs: PipelineInputs,
        jobs: Vec<FileJob>,
    ) -> Result<(BackupId, Outcome), StoreError> {
        self.backups += 1;
        let id = inputs.backup;
        let writer = Arc::clone(&inputs.writer);
        let parent = inputs
            .parent
            .as_ref()
            .and_then(|parent| Some(parent.manifest()?.backup));
        let mut pipeline = Pipeline::start(inputs)?;
        drop(pipeline.copy(jobs.into_iter().map(|job| Ok(Listed::File(job)))).await?);
        let outcome = pipeline.finish().await?;
        commit::put_index(&writer, id, &outcome.index, NOW_US).await?;
        commit::put_manifest(&writer, &self.manifest(id, parent, &outcome)).await?;
        Ok((id, outcome))
    }

    /// Makes a backup of what a pipeline wrote.
    pub(super) async fn commit(&mut self, outcome: &Outcome) -> BackupId {
        self.backups += 1;
        let id = BackupId::from_parts(1000 + self.backups, [9; 10]);
        commit::put_manifest(&self.writer(), &self.manifest(id, None, outcome))
            .await
            .unwrap();
        id
    }

    fn manifest(&self, backup: BackupId, parent: Option<BackupId>, outcome: &Outcome) -> Manifest {
        Manifest {
            started_us: NOW_US,
            finished_us: NOW_US,
            file_table: outcome.file_table.clone(),
            packs: outcome.packs.clone(),
            totals: outcome.totals,
            corrupt_pages: outcome.corrupt_pages.clone(),
            parent,
            vanished: outcome.vanished.clone(),
            ..empty_manifest(backup, self.lineage)
        }
    }

    /// Everything in a backup, read with the restore key; and it checks what the manifest says about its packs.
    pub(super) async fn read_back(&self, id: BackupId) -> Files {
        let manifest = self.restorer.manifest(id).await.unwrap();
        let mut needed: HashSet<ChunkReference> = manifest.file_table.iter().copied().collect();
        let mut chunks = Chunks {
            repository: &self.restorer,
            packs: HashMap::new(),
        };
        let mut maps = Maps::new(&self.restorer);
        let mut out = Files::new();
        for entry in self.restorer.file_table(&manifest).await.unwrap() {
            let mut bytes = Vec::new();
            needed.extend(entry.content_list);
            for at in &entry.content {
                let at = ChunkReference {
                    pack: at.pack,
                    number: at.number,
                };
                needed.insert(at);
                bytes.extend(chunks.get(at).await);
            }
            if let Some(at) = entry.extents {
                let map = maps.extents(at).await.unwrap();
                assert!(map.depth() <= usize::from(crate::limits::PAGE_MAP_DEPTH_MAX));
                needed.extend(map.chunks);
                bytes = read_pages(&mut chunks, &map.content, &mut needed).await;
                let digests = maps.digests(entry.digests.unwrap()).await.unwrap();
                needed.extend(digests.chunks);
                let keys = self.restorer.keys();
                assert!(
                    bytes
                        .chunks(PAGE_BYTES)
                        .map(|page| keys.page_digest(page))
                        .eq(digests.content.pages),
                    "digests of what is stored"
                );
            }
            assert_eq!(bytes.len() as u64, entry.size);
            out.insert(String::from_utf8(entry.path.to_vec()).unwrap(), (entry.class, bytes));
        }
        let mut live: BTreeMap<PackId, u64> = BTreeMap::new();
        for at in needed {
            *live.entry(at.pack).or_default() += chunks.stored_bytes(at).await;
        }
        let said: BTreeMap<PackId, u64> = manifest.packs.iter().map(|need| (need.id, need.live_bytes)).collect();
        assert_eq!(said, live, "the manifest names the packs and what is needed of them");
        out
    }
}

async fn read_pages(
    chunks: &mut Chunks<'_>,
    map: &crate::page_map::Extents,
    needed: &mut HashSet<ChunkReference>,
) -> Vec<u8> {
    let mut out = Vec::new();
    for run in &map.runs {
        let Source::Pack { pack, chunk, page } = run.source else {
            out.resize(out.len() + run.count as usize * PAGE_BYTES, 0);
            continue;
        };
        let (mut number, mut page, mut left) = (chunk, usize::from(page), run.count as usize);
        while left > 0 {
            let at = ChunkReference { pack, number };
            needed.insert(at);
            let plain = chunks.get(at).await;
            let pages = plain.len() / PAGE_BYTES - page;
            let take = pages.min(left);
            assert!(
                take == left || plain.len() == RELATION_CHUNK_PAGES_MAX * PAGE_BYTES,
                "a run goes on only behind a full chunk"
            );
            out.extend_from_slice(&plain[page * PAGE_BYTES..(page + take) * PAGE_BYTES]);
            left -= take;
            number += 1;
            page = 0;
        }
    }
    out
}

struct Chunks<'a> {
    repository: &'a Repository,
    packs: HashMap<PackId, crate::repository::FetchedPack>,
}

impl Chunks<'_> {
    async fn pack(&mut self, id: PackId) -> &crate::repository::FetchedPack {
        if !self.packs.contains_key(&id) {
            self.packs.insert(id, self.repository.fetch_pack(id).await.unwrap());
        }
        &self.packs[&id]
    }

    async fn get(&mut self, at: ChunkReference) -> Vec<u8> {
        let repository = self.repository;
        self.pack(at.pack).await.chunk(at.number, repository).unwrap()
    }

    async fn stored_bytes(&mut self, at: ChunkReference) -> u64 {
        u64::from(self.pack(at.pack).await.entry(at.number).unwrap().stored_bytes)
    }
}
