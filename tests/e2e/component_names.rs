//! Names: of any bytes, as long as there are, in lists and in what is typed; and of components, wherever backups are named.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

use tests::case::case;
use tests::seawall::{json_array, json_str, json_u64};
use tests::{Cluster, Seawall, user};

const REFUSED: i32 = 3;

#[test]
fn what_a_list_prints_is_what_can_be_asked_for() {
    case("component_names", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let uploads = scratch.dir("uploads")?;
        let long = "n".repeat(255);
        let odd = OsString::from_vec(b"two\nlines \\x41 \xff".to_vec());
        for name in [OsString::from(&long), odd.clone(), "plain".into()] {
            fs::write(uploads.join(&name), name.as_encoded_bytes())?;
            user::give(&uploads.join(name))?;
        }
        let config = Seawall::local_config(&scratch, &cluster)?
            .set("component.uploads.kind", "files")?
            .set("component.uploads.paths", vec![uploads.display().to_string()])?
            .set("component.cache.kind", "redis")?
            .set("component.cache.address", "127.0.0.1:1")?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let (agent, restore) = (&seawall.agent, &seawall.restore);
        agent.run_ok(&["backup", "uploads"]).await?;

        // Of whom: in what stays and goes, and in what there is, on schedule or not.
        let pruned = agent.run_ok(&["prune", "--dry-run"]).await?;
        assert!(pruned.stdout.contains("uploads"), "{}", pruned.stdout);
        let pruned = agent.run_ok(&["prune", "--dry-run", "--json"]).await?.json()?;
        assert_eq!(json_str(&json_array(&pruned, "backups")?[0], "component")?, "uploads");
        let status = agent.run_ok(&["status"]).await?.stdout;
        assert!(
            status.contains("uploads: newest backup 2") && status.contains("cache: no backup yet"),
            "{status}"
        );

        // As it is printed.
        let listed = restore.run_ok(&["component", "uploads", "--list"]).await?.stdout;
        let line = listed.lines().find(|line| line.contains("lines")).unwrap();
        let printed = line.split_once(" UTC ").map_or(line, |(_, path)| path);
        let printed = &printed[printed.find("tmp/").unwrap()..];
        let cat = restore.run_ok(&["component", "uploads", "--cat", printed]).await?;
        assert!(cat.stdout.starts_with("two\nlines \\x41 "), "{printed}: {}", cat.stdout);
        let history = restore.run_ok(&["component", "uploads", "--history", printed]).await?;
        assert_eq!(history.stdout.lines().count(), 1, "{}", history.stdout);
        let to = scratch.join("back");
        let to_text = to.display().to_string();
        let part = ["component", "uploads", "--to", &to_text, "--path", printed, "--json"];
        let report = restore.run_ok(&part).await?.json()?;
        assert_eq!(json_u64(&report, "made")?, 1, "{report}");
        assert!(to.join(uploads.strip_prefix("/")?).join(&odd).exists());

        // What is not there leaves nothing; not even beside what is.
        let none = scratch.join("none");
        let none_text = none.display().to_string();
        let known = uploads.join("plain").display().to_string();
        let unknown = restore
            .run(&[
                "component",
                "uploads",
                "--to",
                &none_text,
                "--path",
                &known,
                "--path",
                "not/there",
            ])
            .await?;
        unknown.assert_refused(REFUSED, &["nothing in the backup has the path", "not/there"])?;
        assert!(!none.exists());

        // The longest name there is, replaced.
        let whole = scratch.join("whole").display().to_string();
        restore.run_ok(&["component", "uploads", "--to", &whole]).await?;
        let there = scratch.join("whole").join(uploads.strip_prefix("/")?).join(&long);
        fs::write(&there, "another")?;
        let over = ["component", "uploads", "--to", &whole, "--over", "--json"];
        let report = restore.run_ok(&over).await?.json()?;
        assert_eq!(json_u64(&report, "replaced")?, 1, "{report}");
        assert_eq!(fs::read_to_string(there)?, long);
        Ok(())
    });
}
