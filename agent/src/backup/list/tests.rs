use std::os::unix::fs::symlink;

use super::*;

struct Data(PathBuf);

impl Data {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("seawall-list-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("pgdata")).unwrap();
        Data(path)
    }

    fn file(&self, path: &str) {
        let path = self.0.join("pgdata").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }

    fn walk(&self) -> Listing {
        let data_directory = self.0.join("pgdata");
        let cluster = Cluster {
            data_directory,
            tablespace_version: "PG_15_202209061".into(),
            relation_segment_blocks: 131_072,
        };
        let mut walk = Walk::begin(cluster.clone()).unwrap();
        let (mut jobs, mut entries, mut order) = (Vec::new(), Vec::new(), Vec::new());
        for listed in &mut walk {
            match listed.unwrap() {
                Listed::File(job) | Listed::Same(job, _) | Listed::Kept(job, _) => {
                    order.push(job.path.clone());
                    jobs.push(job);
                }
                Listed::Entry(entry) => {
                    order.push(entry.path.to_vec());
                    entries.push(entry);
                }
            }
        }
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(measure(&cluster).unwrap().0, jobs.len() as u64);
        Listing {
            jobs,
            entries,
            tablespaces: walk.tablespaces,
            control: walk.control,
        }
    }
}

struct Listing {
    jobs: Vec<FileJob>,
    entries: Vec<FileEntry>,
    tablespaces: Vec<Tablespace>,
    control: Option<FileJob>,
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn paths(listing: &Listing) -> Vec<String> {
    listing
        .jobs
        .iter()
        .map(|job| String::from_utf8_lossy(&job.path).into_owned())
        .collect()
}

fn entry<'a>(listing: &'a Listing, path: &str) -> Option<&'a FileEntry> {
    listing
        .entries
        .iter()
        .find(|entry| entry.path.as_slice() == path.as_bytes())
}

#[test]
fn the_cluster_is_listed_and_what_the_server_makes_anew_is_not() {
    let data = Data::new("all");
    for path in [
        "PG_VERSION",
        "global/pg_control",
        "global/1262",
        "base/5/1259",
        "base/5/1259.2",
        "base/5/1259_fsm",
        "base/5/100",
        "base/5/100_init",
        "base/5/t3_200",
        "base/5/PG_VERSION",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "pg_wal/000000010000000000000001",
        "pg_wal/archive_status/000000010000000000000001.done",
        "pg_replslot/seawall/state",
        "postmaster.pid",
        "odd \u{e0} = [name]",
        "base.old",
        "base-2/x",
        "base0",
    ] {
        data.file(path);
    }
    let listing = data.walk();
    let expected = [
        "PG_VERSION",
        "base-2/x",
        "base.old",
        "base/5/100_init",
        "base/5/1259",
        "base/5/1259.2",
        "base/5/1259_fsm",
        "base/5/PG_VERSION",
        "base0",
        "global/1262",
        "odd \u{e0} = [name]",
    ];
    assert_eq!(paths(&listing), expected);
    assert_eq!(listing.control.as_ref().unwrap().class, EntryClass::Control);
    let job = |path: &str| listing.jobs.iter().find(|job| job.path == path.as_bytes()).unwrap();
    assert_eq!(
        (job("base/5/1259.2").first_block, job("base/5/1259.2").is_judged),
        (262_144, true)
    );
    assert!(!job("base/5/1259_fsm").is_judged && job("base/5/1259_fsm").class == EntryClass::Relation);
    assert!(job("base/5/1259").may_vanish && !job("PG_VERSION").may_vanish);
    for kept in ["pg_wal", "pg_wal/archive_status", "pg_replslot", "base/5"] {
        assert_eq!(
            entry(&listing, kept).unwrap().entry_type,
            EntryType::Directory,
            "{kept}"
        );
    }
    assert!(entry(&listing, "pg_replslot/seawall").is_none() && entry(&listing, "base/pgsql_tmp").is_none());
}

#[test]
fn links_that_postgresql_knows_are_followed_and_others_are_links() {
    let data = Data::new("links");
    let elsewhere = data.0.join("else where");
    let wal = data.0.join("wal");
    std::fs::create_dir_all(elsewhere.join("PG_15_202209061/5")).unwrap();
    std::fs::create_dir_all(elsewhere.join("PG_16_202307071/5")).unwrap();
    std::fs::create_dir_all(&wal).unwrap();
    std::fs::write(elsewhere.join("PG_15_202209061/5/1259"), b"x").unwrap();
    std::fs::write(elsewhere.join("PG_16_202307071/5/1259"), b"x").unwrap();
    std::fs::write(elsewhere.join("other"), b"x").unwrap();
    std::fs::write(wal.join("000000010000000000000001"), b"x").unwrap();
    data.file("pg_tblspc/99/PG_15_202209061/5/2600");
    let inside = data.0.join("pgdata");
    symlink(&elsewhere, inside.join("pg_tblspc/16385")).unwrap();
    symlink(data.0.join("dropped"), inside.join("pg_tblspc/16386")).unwrap();
    symlink(&wal, inside.join("pg_wal")).unwrap();
    symlink("/etc/somewhere/postgresql.conf", inside.join("postgresql.conf")).unwrap();
    let listing = data.walk();
    assert_eq!(
        paths(&listing),
        [
            "pg_tblspc/16385/PG_15_202209061/5/1259",
            "pg_tblspc/99/PG_15_202209061/5/2600"
        ]
    );
    assert_eq!(entry(&listing, "pg_wal").unwrap().entry_type, EntryType::Directory);
    let link = entry(&listing, "postgresql.conf").unwrap();
    assert_eq!(
        (link.entry_type, link.target.as_deref().map(|target| &target[..])),
        (EntryType::Link, Some(&b"/etc/somewhere/postgresql.conf"[..]))
    );
    assert_eq!(
        entry(&listing, "pg_tblspc/16385").unwrap().target.as_deref().unwrap()[..],
        *elsewhere.as_os_str().as_bytes()
    );
    let tablespaces: Vec<_> = listing
        .tablespaces
        .iter()
        .map(|tablespace| (tablespace.oid, tablespace.in_place))
        .collect();
    assert_eq!(tablespaces, [(16385, false), (99, true)]);
}
