use super::*;
use crate::exit;
use crate::plan::TablespacePlan;
use store::manifest::Manifest;

fn refusal(result: Result<Found>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), exit::REFUSED);
    assert!(error.hint().is_some());
    error.to_string()
}

#[test]
fn a_free_directory_is_empty_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(inspect(dir.path(), None, false).unwrap(), Found::Free));
    assert!(matches!(
        inspect(&dir.path().join("new"), None, false).unwrap(),
        Found::Free
    ));
    fs::write(dir.path().join("x"), "").unwrap();
    assert!(refusal(inspect(dir.path(), None, false)).contains("is not empty"));
}

#[test]
fn a_running_server_a_link_and_the_repository_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    assert!(refusal(inspect(dir.path(), None, false)).contains("is running in"));
    let other = tempfile::tempdir().unwrap();
    let link = other.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    assert!(refusal(inspect(&link, None, false)).contains("symbolic link"));
    let repository = other.path().canonicalize().unwrap();
    assert!(refusal(inspect(&repository.join("x"), Some(&repository), false)).contains("repository"));
}

#[test]
fn an_interrupted_restore_is_known_by_its_marker_and_a_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut marker = Marker {
        names: vec!["base".into(), "PG_VERSION".into(), "../x".into()],
        ..Marker::default()
    };
    let write = |marker: &Marker| {
        let json = serde_json::to_vec(marker).unwrap();
        fs::write(dir.path().join(OURS).join(INCOMPLETE), json).unwrap();
    };
    fs::create_dir_all(dir.path().join(OURS)).unwrap();
    fs::create_dir_all(dir.path().join("base/5")).unwrap();
    write(&marker);
    assert!(matches!(
        inspect(dir.path(), None, false).unwrap(),
        Found::Interrupted(_)
    ));
    fs::write(dir.path().join("mine"), "").unwrap();
    assert!(refusal(inspect(dir.path(), None, false)).contains("did not write"));
    marker.delta = true;
    write(&marker);
    assert!(inspect(dir.path(), None, false).unwrap().is_delta());
}

#[test]
fn a_directory_with_pg_control_is_never_taken_for_an_interrupted_restore() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(OURS)).unwrap();
    fs::create_dir_all(dir.path().join("global")).unwrap();
    fs::write(dir.path().join("global/pg_control"), "").unwrap();
    let marker = Marker {
        restore: "r".into(),
        ..Marker::default()
    };
    fs::write(
        dir.path().join(OURS).join(INCOMPLETE),
        serde_json::to_vec(&marker).unwrap(),
    )
    .unwrap();
    assert!(refusal(inspect(dir.path(), None, false)).contains("is not empty"));
    assert!(
        refusal(inspect(dir.path(), None, true)).contains("pg_control"),
        "it says nothing of whose it is"
    );
}

fn with_tablespaces() -> Manifest {
    let mut manifest = crate::testing::manifest();
    manifest.tablespaces = vec![
        store::manifest::Tablespace {
            oid: 16384,
            location: b"/srv/one".to_vec().into(),
            in_place: false,
        },
        store::manifest::Tablespace {
            oid: 16385,
            location: b"/srv/two=2".to_vec().into(),
            in_place: false,
        },
        store::manifest::Tablespace {
            oid: 16386,
            location: b"pg_tblspc/16386".to_vec().into(),
            in_place: true,
        },
    ];
    manifest
}

#[test]
fn tablespaces_go_where_they_were_unless_they_are_mapped() {
    let plan = |map: &[&str]| {
        let map: Vec<String> = map.iter().map(|text| (*text).to_owned()).collect();
        plan_tablespaces(&with_tablespaces(), &map, None, Path::new("/data"))
    };
    let to = |plan: &[TablespacePlan]| plan.iter().map(|one| one.to.display().to_string()).collect::<Vec<_>>();
    assert_eq!(to(&plan(&[]).unwrap()), ["/srv/one", "/srv/two=2"]);
    assert_eq!(
        to(&plan(&["16384=/new/a", "/srv/two=2=/new/b"]).unwrap()),
        ["/new/a", "/new/b"]
    );
    let below = plan_tablespaces(
        &with_tablespaces(),
        &[],
        Some(Path::new("/scratch")),
        Path::new("/data"),
    );
    assert_eq!(to(&below.unwrap()), ["/scratch/16384", "/scratch/16385"]);
    for bad in [
        &["16384=relative"][..],
        &["nothing"],
        &["16399=/new"],
        &["/other=/new"],
        &["16384=/data/x"],
        &["16384=/new", "16385=/new/x"],
    ] {
        assert!(plan(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_tablespace_directory_with_files_is_refused_with_the_option_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x"), "").unwrap();
    let plan = [TablespacePlan {
        oid: 5,
        from: String::new(),
        to: dir.path().to_owned(),
        is_mapped: false,
    }];
    let error = inspect_tablespaces(&plan, None, &Found::Free).unwrap_err();
    assert!(error.hint().unwrap().contains("--tablespace-map 5=DIR"));
}

#[test]
fn too_little_space_is_said_in_figures() {
    assert!(check_space(&[(Path::new("/tmp"), 0)]).is_ok());
    let error = check_space(&[(Path::new("/tmp/not/there"), u64::MAX / 4)]).unwrap_err();
    assert!(error.to_string().contains("are needed"));
}
