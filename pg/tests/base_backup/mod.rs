//! Base backups of real servers: what comes is what is on disk, and what breaks is an error.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pg::control::ControlFile;
use pg::label::{BackupLabel, TablespaceMap};
use pg::lsn::Lsn;
use pg::relation::excluded;
use pg::replication::{
    ArchiveEntry, BaseBackup, BaseBackupEvent, BaseBackupOptions, BaseBackupStart, Checkpoint, EntryKind,
    ReplicationError, ReplicationSession, Tablespace, Zstd,
};
use pg::timeline::TimelineId;

use super::cluster::{Cluster, give_to_server};
use super::session;

const LABEL: &str = "it's \\ an odd \"label\" ü";

/// Name of a file in the data directory, as long as tar takes it, without a meaning in any encoding.
fn odd_name() -> Vec<u8> {
    let mut name = b"odd ' \\ \" \t\n\xFF\xC3\x28 ..".to_vec();
    name.resize(99, b'x');
    name
}

struct Entry {
    entry: ArchiveEntry,
    content: Vec<u8>,
}

/// A base backup in memory, by paths relative to the data directory, in the order in which it came.
struct Unpacked {
    start: BaseBackupStart,
    entries: Vec<(Vec<u8>, Entry)>,
    archives: Vec<Option<u32>>,
    end: Lsn,
    session: ReplicationSession,
}

impl Unpacked {
    fn content(&self, path: &[u8]) -> &[u8] {
        let found = self.entries.iter().find(|(at, _)| at == path);
        &found.expect("an entry").1.content
    }
}

/// A path below the data directory, whose tablespaces are behind `pg_tblspc`.
fn path_of(tablespace: Option<u32>, path: &[u8]) -> Vec<u8> {
    let prefix = tablespace.map_or_else(String::new, |oid| format!("pg_tblspc/{oid}/"));
    [prefix.as_bytes(), path].concat()
}

async fn unpack(mut backup: BaseBackup) -> Result<Unpacked, ReplicationError> {
    let start = backup.start().clone();
    let (mut entries, mut archives) = (Vec::<(Vec<u8>, Entry)>::new(), Vec::new());
    let (mut end, mut open) = (None, None);
    while let Some(event) = backup.next().await? {
        assert_eq!(end, None, "nothing comes behind the end");
        match event {
            BaseBackupEvent::ArchiveStarted { tablespace } => archives.push(tablespace),
            BaseBackupEvent::Entry(entry) => {
                assert_eq!(open, None, "a file ends before the next");
                let path = path_of(*archives.last().unwrap(), &entry.path);
                open = match entry.kind {
                    EntryKind::File { size } => Some(size),
                    _ => None,
                };
                let content = Vec::new();
                entries.push((path, Entry { entry, content }));
            }
            BaseBackupEvent::Data(data) => {
                assert!(!data.is_empty());
                let (_, entry) = entries.last_mut().unwrap();
                entry.content.extend_from_slice(&data);
            }
            BaseBackupEvent::FileEnded => {
                let (_, entry) = entries.last().unwrap();
                assert_eq!(open.take(), Some(entry.content.len() as u64));
            }
            BaseBackupEvent::ArchiveEnded => assert_eq!(open, None),
            BaseBackupEvent::Notice(notice) => panic!("{notice:?}"),
            BaseBackupEvent::Ended { lsn, timeline } => {
                assert_eq!(timeline, TimelineId::FIRST);
                end = Some(lsn);
            }
        }
    }
    Ok(Unpacked {
        start,
        entries,
        archives,
        end: end.expect("an end"),
        session: backup.into_session().expect("a session"),
    })
}

fn options() -> BaseBackupOptions {
    BaseBackupOptions {
        checkpoint: Checkpoint::Fast,
        sizes: true,
        ..BaseBackupOptions::new(LABEL)
    }
}

/// A quiet cluster with a tablespace and with files that nobody expects.
fn prepare(major: u32) -> (Cluster, PathBuf) {
    let cluster = Cluster::start_version(major);
    let space = cluster.directory.path().join("a space ü");
    fs::create_dir(&space).unwrap();
    give_to_server(&space);
    cluster.sql("ALTER SYSTEM SET bgwriter_lru_maxpages = 0");
    cluster.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
    cluster.sql("CREATE TABLE t TABLESPACE fast AS SELECT g, repeat('x', 500) FROM generate_series(1, 5000) g");
    cluster.sql("CREATE TABLE u AS SELECT g FROM generate_series(1, 10000) g");
    cluster.sql("VACUUM FREEZE");
    let directory = cluster.data.join(OsStr::from_bytes(&[b'd'; 99]));
    fs::create_dir(&directory).unwrap();
    give_to_server(&directory);
    for (path, content) in [
        (cluster.data.join(OsStr::from_bytes(&odd_name())), vec![0xA5; 70_001]),
        (cluster.data.join("empty"), Vec::new()),
        (cluster.data.join("one block"), vec![1; 512]),
    ] {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        give_to_server(&path);
    }
    cluster.sql("CHECKPOINT");
    (cluster, space)
}

fn walk(root: &Path, relative: &[u8], found: &mut BTreeMap<Vec<u8>, Metadata>) {
    for entry in fs::read_dir(root.join(OsStr::from_bytes(relative))).unwrap() {
        let name = entry.unwrap().file_name().into_vec();
        let path = if relative.is_empty() {
            name
        } else {
            [relative, b"/", &name].concat()
        };
        // Links of tablespaces are followed, which are directories then.
        let metadata = fs::metadata(root.join(OsStr::from_bytes(&path))).unwrap();
        if metadata.is_dir() {
            walk(root, &path, found);
        }
        found.insert(path, metadata);
    }
}

/// What is in the backup is on disk, and the other way round.
fn compare(cluster: &Cluster, space: &Path, unpacked: &Unpacked) {
    let mut on_disk = BTreeMap::new();
    walk(&cluster.data, b"", &mut on_disk);
    let oid = unpacked.start.tablespaces[0].oid;
    let link = format!("pg_tblspc/{oid}").into_bytes();
    on_disk.retain(|path, _| excluded(path).is_none() && *path != link);
    assert!(fs::read_dir(space).unwrap().count() > 0);
    for (path, Entry { entry, content }) in &unpacked.entries {
        let shown = String::from_utf8_lossy(path);
        if matches!(path.as_slice(), b"backup_label" | b"tablespace_map") {
            continue;
        }
        let metadata = on_disk.remove(path).unwrap_or_else(|| panic!("{shown} is not on disk"));
        // The server takes the attributes of pg_wal for those of the directories in it.
        if !path.starts_with(b"pg_wal/") {
            assert_eq!(entry.mode, metadata.mode() & 0o7777, "{shown}");
        }
        assert_eq!(entry.kind == EntryKind::Directory, metadata.is_dir(), "{shown}");
        if metadata.is_dir() || path == b"global/pg_control" {
            continue;
        }
        assert_eq!(entry.kind, EntryKind::File { size: metadata.len() }, "{shown}");
        assert_eq!(entry.mtime_s, metadata.mtime(), "{shown}");
        let expected = fs::read(cluster.data.join(OsStr::from_bytes(path))).unwrap();
        assert!(*content == expected, "{shown} differs");
    }
    let missing: Vec<_> = on_disk.keys().map(|path| String::from_utf8_lossy(path)).collect();
    assert!(missing.is_empty(), "not in the backup: {missing:?}");
}

async fn a_backup_is_the_data_directory(major: u32, compression: &[Option<Zstd>]) {
    let (cluster, space) = prepare(major);
    let oid = cluster.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'");
    let oid: u32 = oid.parse().unwrap();
    cluster.sql("CHECKPOINT");
    let mut session = session(&cluster).await;
    assert_eq!(session.server_version().major(), major);
    for &compression in compression {
        let options = BaseBackupOptions {
            compression,
            ..options()
        };
        let unpacked = unpack(session.start_base_backup(&options).await.unwrap())
            .await
            .unwrap();
        compare(&cluster, &space, &unpacked);
        assert_eq!(unpacked.archives, [Some(oid), None]);
        assert_eq!(unpacked.entries.last().unwrap().0, b"global/pg_control");
        ControlFile::parse(unpacked.content(b"global/pg_control")).unwrap();

        let start = &unpacked.start;
        let [
            Tablespace {
                oid: listed,
                location,
                size_kib: Some(space_kib),
            },
        ] = start.tablespaces.as_slice()
        else {
            panic!("{start:?}");
        };
        assert_eq!((*listed, location.as_slice()), (oid, space.as_os_str().as_bytes()));
        assert!(
            *space_kib > 2500 && start.data_directory_size_kib > Some(10_000),
            "{start:?}"
        );
        let map = TablespaceMap::parse(unpacked.content(b"tablespace_map")).unwrap();
        assert_eq!(map, [(oid, location.clone())]);
        let label = BackupLabel::parse(unpacked.content(b"backup_label")).unwrap();
        assert_eq!((label.start_lsn, label.label.as_str()), (start.lsn, LABEL));
        assert!(label.start_lsn < unpacked.end && start.timeline == TimelineId::FIRST);
        // The session is ready for another command.
        session = unpacked.session;
        assert!(session.identify_system().await.unwrap().flush_lsn >= unpacked.end);
    }
}

const LEVEL_19: Zstd = Zstd {
    level: Some(19),
    workers: None,
};

#[tokio::test]
async fn a_base_backup_of_13_is_the_data_directory() {
    a_backup_is_the_data_directory(13, &[None]).await;
}

#[tokio::test]
async fn a_base_backup_of_14_is_the_data_directory() {
    a_backup_is_the_data_directory(14, &[None]).await;
}

#[tokio::test]
async fn a_base_backup_of_15_is_the_data_directory() {
    a_backup_is_the_data_directory(15, &[None, Some(Zstd::default())]).await;
}

#[tokio::test]
async fn a_base_backup_of_16_is_the_data_directory() {
    a_backup_is_the_data_directory(16, &[None]).await;
}

#[tokio::test]
async fn a_base_backup_of_17_is_the_data_directory() {
    let two_workers = Zstd {
        level: Some(1),
        workers: Some(2),
    };
    a_backup_is_the_data_directory(17, &[None, Some(two_workers)]).await;
}

#[tokio::test]
async fn a_base_backup_of_18_is_the_data_directory() {
    a_backup_is_the_data_directory(18, &[None, Some(LEVEL_19)]).await;
}

/// A backup that takes its time, in the middle of its first large file.
async fn in_the_middle(cluster: &Cluster) -> BaseBackup {
    let options = BaseBackupOptions {
        rate_max_kib_s: Some(512),
        ..options()
    };
    let session = session(cluster).await;
    let mut backup = session.start_base_backup(&options).await.unwrap();
    loop {
        match backup.next().await.unwrap() {
            Some(BaseBackupEvent::Data(data)) if data.len() > 8192 => return backup,
            Some(event) => assert!(!matches!(event, BaseBackupEvent::Ended { .. })),
            None => panic!("the backup has ended"),
        }
    }
}

/// The error at the end, and from then on.
async fn error_of(mut backup: BaseBackup) -> ReplicationError {
    loop {
        match backup.next().await {
            Ok(event) => assert!(!matches!(event, None | Some(BaseBackupEvent::Ended { .. }))),
            Err(error) => {
                assert!(backup.next().await.is_err());
                assert!(backup.into_session().is_none());
                return error;
            }
        }
    }
}

async fn an_interrupted_backup_is_an_error(major: u32) {
    let mut cluster = Cluster::start_version(major);
    let backup = in_the_middle(&cluster).await;
    cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
    let error = error_of(backup).await;
    // A server that is stopped while it sends says no more.
    let is_named = error.sqlstate() == Some("57P01");
    assert!(is_named || matches!(error, ReplicationError::Closed), "{error:?}");
    assert!(error.is_transient());
    let backup = in_the_middle(&cluster).await;
    cluster.crash();
    let error = error_of(backup).await;
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn an_interrupted_base_backup_of_13_is_an_error() {
    an_interrupted_backup_is_an_error(13).await;
}

#[tokio::test]
async fn an_interrupted_base_backup_of_18_is_an_error() {
    an_interrupted_backup_is_an_error(18).await;
}

async fn refusal(cluster: &Cluster, options: &BaseBackupOptions) -> ReplicationError {
    session(cluster).await.start_base_backup(options).await.unwrap_err()
}

async fn what_cannot_be_is_a_clear_error(major: u32) {
    let cluster = Cluster::start_version(major);
    let slow = BaseBackupOptions {
        rate_max_kib_s: Some(1),
        ..options()
    };
    let error = refusal(&cluster, &slow).await;
    assert_eq!(error.sqlstate(), Some("22003"));
    assert!(error.to_string().contains("MAX_RATE"), "{error}");
    let long = BaseBackupOptions {
        label: "x".repeat(1025),
        ..options()
    };
    let error = refusal(&cluster, &long).await;
    assert!(error.to_string().contains("backup label too long"), "{error}");
    let compressed = BaseBackupOptions {
        compression: Some(Zstd::default()),
        ..options()
    };
    if major < 15 {
        let error = refusal(&cluster, &compressed).await;
        assert!(matches!(error, ReplicationError::Unsupported { .. }), "{error:?}");
    }

    // A path of 100 bytes does not fit, and the server says which.
    let path = cluster.data.join("n".repeat(100));
    fs::write(&path, "x").unwrap();
    give_to_server(&path);
    let backup = session(&cluster).await.start_base_backup(&options()).await.unwrap();
    let error = error_of(backup).await;
    assert!(error.sqlstate().is_some(), "{error:?}");
    assert!(
        error.to_string().contains("file name too long for tar format"),
        "{error}"
    );
    fs::remove_file(&path).unwrap();

    // A file of 9 GiB, of which we see the header only.
    let size = 9 << 30;
    let path = cluster.data.join("huge");
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    give_to_server(&path);
    let mut backup = session(&cluster).await.start_base_backup(&options()).await.unwrap();
    let huge = loop {
        match backup.next().await.unwrap() {
            Some(BaseBackupEvent::Entry(entry)) if entry.path == b"huge" => break entry,
            Some(_) => {}
            None => panic!("no huge file"),
        }
    };
    assert_eq!(huge.kind, EntryKind::File { size });
    assert!(backup.into_session().is_none());
}

#[tokio::test]
async fn what_cannot_be_is_a_clear_error_of_13() {
    what_cannot_be_is_a_clear_error(13).await;
}

#[tokio::test]
async fn what_cannot_be_is_a_clear_error_of_17() {
    what_cannot_be_is_a_clear_error(17).await;
}

/// The server leaves out what is no file, directory or link of a tablespace, and says so.
#[tokio::test]
async fn what_the_server_leaves_out_is_an_event() {
    let cluster = Cluster::start_version(15);
    std::os::unix::fs::symlink("/nowhere", cluster.data.join("a link")).unwrap();
    let mut backup = session(&cluster).await.start_base_backup(&options()).await.unwrap();
    let mut notices = Vec::new();
    while let Some(event) = backup.next().await.unwrap() {
        match event {
            BaseBackupEvent::Notice(notice) => notices.push(notice),
            BaseBackupEvent::Entry(entry) => assert_ne!(entry.path, b"a link"),
            _ => {}
        }
    }
    let [notice] = notices.as_slice() else {
        panic!("{notices:?}");
    };
    assert_eq!(notice.severity, "WARNING");
    assert!(notice.message.contains("a link"), "{notice:?}");
}
