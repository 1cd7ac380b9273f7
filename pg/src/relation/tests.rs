//! Tests of the path classification.

use super::*;

fn relation(path: &str) -> RelationFile {
    match FileClass::of(path.as_bytes()) {
        FileClass::Relation(file) => file,
        other => panic!("{path} is {other:?}"),
    }
}

#[test]
fn relation_files_are_recognised_everywhere() {
    let base = RelationFile {
        tablespace: None,
        database: 5,
        relfilenode: 1259,
        fork: Fork::Main,
        segment: 0,
        temporary: false,
    };
    assert_eq!(relation("base/5/1259"), base);
    assert_eq!(relation("base/5/1259.3"), RelationFile { segment: 3, ..base });
    assert_eq!(
        relation("base/5/1259_fsm"),
        RelationFile {
            fork: Fork::Fsm,
            ..base
        }
    );
    assert_eq!(
        relation("base/5/1259_vm.1"),
        RelationFile {
            fork: Fork::Vm,
            segment: 1,
            ..base
        }
    );
    assert_eq!(relation("global/1259_init").database, 0);
    let temporary = relation("base/5/t3_12345_vm");
    assert!(temporary.temporary && temporary.relfilenode == 12345);
    let elsewhere = relation("pg_tblspc/16385/PG_15_202209061/5/1259");
    assert_eq!(
        elsewhere,
        RelationFile {
            tablespace: Some(16385),
            ..base
        }
    );
}

#[test]
fn files_of_their_own_kind_are_named() {
    for (path, class) in [
        ("global/pg_control", FileClass::Control),
        ("backup_label", FileClass::BackupLabel),
        ("tablespace_map", FileClass::TablespaceMap),
        ("PG_VERSION", FileClass::Version),
        ("base/5/PG_VERSION", FileClass::Version),
        ("base/5/pg_filenode.map", FileClass::RelationMap),
        ("global/pg_filenode.map", FileClass::RelationMap),
    ] {
        assert_eq!(FileClass::of(path.as_bytes()), class, "{path}");
    }
}

#[test]
fn near_misses_are_other_files() {
    for path in [
        "",
        "base/5/0",
        "base/5/01259",
        "base/5/1259.",
        "base/5/1259.0",
        "base/5/1259_tmp",
        "base/5/1259_vm_1",
        "base/5/t_1259",
        "base/5/t3_",
        "base/5/99999999999",
        "base/x/1259",
        "base/1259",
        "base/5/6/1259",
        "pg_tblspc/16385/5/1259",
        "pg_tblspc/16385/PG_15/5/1259",
        "pg_xact/0000",
        "base/5/\u{661}",
    ] {
        assert_eq!(FileClass::of(path.as_bytes()), FileClass::Other, "{path}");
    }
}

#[test]
fn block_numbers_go_on_over_the_files_of_a_fork() {
    assert_eq!(relation("base/5/1259.2").first_block(131_072), Some(262_144));
    assert_eq!(first_block(u32::MAX, 131_072), None);
}

#[test]
fn only_the_init_fork_of_an_unlogged_relation_is_kept() {
    let names: Vec<&[u8]> = [
        "100",
        "100.1",
        "100_fsm",
        "100_init",
        "200",
        "200_vm",
        "t3_100",
        "300_init.1",
        "300",
    ]
    .iter()
    .map(|name| name.as_bytes())
    .collect();
    let left_out: Vec<&[u8]> = unlogged_without_init(&names).into_iter().collect();
    assert_eq!(left_out, [&b"100"[..], b"100.1", b"100_fsm", b"300"]);
}
