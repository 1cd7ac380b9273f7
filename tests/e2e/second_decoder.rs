//! The second decoder, `docs/reader/seawall_reader.py`, which was written from `docs/FORMAT.md` alone: it restores byte for byte what
//! `wal-restore` does, and refuses what is damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::install::reader_python;
use tests::seawall::{CLUSTER, json_str};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, StopMode, case, pgbench, tree, user};

const REFUSED: i32 = 1;
/// Kind of an object (FORMAT 4): the byte at this place, and what it is for packs of pages and contents.
const KIND_AT: usize = 8;
const DATA_PACK: u8 = 1;

/// The decoder, as the server user.
struct Reader<'a> {
    seawall: &'a Seawall,
    scratch: &'a Scratch,
    python: PathBuf,
    script: PathBuf,
}

impl<'a> Reader<'a> {
    /// A copy of it: the directory with the sources may be closed to the server user.
    fn new(seawall: &'a Seawall, scratch: &'a Scratch) -> Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reader/seawall_reader.py");
        let text = fs::read(&source).with_context(|| source.display().to_string())?;
        scratch.dir("theirs")?;
        Ok(Self {
            seawall,
            scratch,
            python: reader_python()?,
            script: scratch.write("reader.py", text)?,
        })
    }

    /// Exit code, standard output and standard error.
    async fn run_with(&self, key: &str, args: &[&str]) -> Result<(Option<i32>, String, String)> {
        let mut command = user::command(&self.python);
        command
            .arg(&self.script)
            .arg("--repository")
            .arg(self.seawall.repository());
        command.args(["--cluster", CLUSTER, "--key"]);
        command.arg(self.scratch.join("keys").join(key)).args(args);
        let output = user::output(command, DEADLINE).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    }

    async fn run(&self, args: &[&str]) -> Result<String> {
        let (code, out, error) = self.run_with("restore.key", args).await?;
        ensure!(code == Some(0), "{args:?} ended with {code:?}: {error}");
        ensure!(error.is_empty(), "{args:?}: {error}");
        Ok(out)
    }

    /// A place for one output file; nothing is there yet.
    fn out(&self) -> Result<String> {
        let path = self.scratch.join("theirs/out");
        if path.exists() {
            fs::remove_file(&path)?;
        }
        Ok(path.display().to_string())
    }

    /// What a command that writes a file has written.
    async fn read(&self, args: &[&str]) -> Result<Vec<u8>> {
        let out = self.out()?;
        self.run(&[args, &["--out", &out]].concat()).await?;
        fs::read(&out).context(out)
    }

    /// It says why, and leaves nothing.
    async fn refuses(&self, args: &[&str], why: &str) -> Result<()> {
        let out = self.out()?;
        let args = [args, &["--out", &out]].concat();
        let (code, _, error) = self.run_with("restore.key", &args).await?;
        ensure!(code == Some(REFUSED), "{args:?} ended with {code:?}: {error}");
        let last = error.lines().last().unwrap_or_default();
        ensure!(
            last.starts_with("refused: ") && error.contains(why),
            "{args:?}: {error}"
        );
        ensure!(!Path::new(&out).exists(), "{args:?} left a file");
        Ok(())
    }

    /// Everything below a directory of a backup, unpacked; returns where its data directory is.
    async fn unpack(&self, backup: &str, below: &str) -> Result<PathBuf> {
        let out = self.out()?;
        self.run(&["tar", "--backup", backup, "--below", below, "--out", &out])
            .await?;
        let data = self.scratch.dir("unpacked")?;
        let mut command = user::command("tar");
        command.arg("-xpf").arg(&out).arg("-C").arg(&data);
        user::run(command, DEADLINE).await?;
        Ok(data)
    }

    /// With one byte in the middle of each of these objects changed it refuses.
    async fn refuses_when_damaged(&self, objects: &[PathBuf], args: &[&str], why: &str) -> Result<()> {
        ensure!(!objects.is_empty(), "nothing to damage");
        objects.iter().try_for_each(|object| flip_middle(object))?;
        self.refuses(args, why).await?;
        objects.iter().try_for_each(|object| flip_middle(object))
    }
}

fn flip_middle(path: &Path) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let at = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 0x20;
    Ok(file.write_all_at(&byte, at)?)
}

fn data_packs(seawall: &Seawall) -> Result<Vec<PathBuf>> {
    let packs = seawall.repository().join("clusters").join(CLUSTER).join("packs");
    let mut data = Vec::new();
    for pack in tree::files(&packs)? {
        if fs::read(&pack)?.get(KIND_AT) == Some(&DATA_PACK) {
            data.push(pack);
        }
    }
    Ok(data)
}

/// What `wal-restore wal-get` delivers to a restored directory.
async fn wal_get(seawall: &Seawall, scratch: &Scratch, data: &Path, segment: &str) -> Result<Vec<u8>> {
    let path = scratch.dir("ours-wal")?.join(segment);
    let (to, pgdata) = (path.display().to_string(), data.display().to_string());
    let args = ["wal-get", segment, &to, "--pgdata", &pgdata];
    seawall.restore.run_ok(&args).await?;
    Ok(fs::read(&path)?)
}

#[test]
fn the_second_decoder_restores_the_same_bytes_and_refuses_damage() {
    case("second_decoder", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        pgbench::init(&cluster, 1).await?;
        cluster
            .exec("create table shrinks as select generate_series(1, 50000) i")
            .await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        let first = seawall.backup().await?;

        // Files that changed in places, that are shorter, gone and new.
        pgbench::transactions(&cluster, 2, 200).await?;
        for statement in [
            "delete from shrinks where i > 100",
            "vacuum shrinks",
            "truncate pgbench_history",
            "create table later as select generate_series(1, 1000) i",
            "checkpoint",
        ] {
            cluster.exec(statement).await?;
        }
        let second = seawall.backup().await?;
        assert_eq!(json_str(&second, "parent")?, json_str(&first, "backup")?);
        let name = "select pg_walfile_name(pg_current_wal_insert_lsn())";
        let whole = cluster.query_one(name).await?;
        cluster.switch_wal().await?;
        cluster.exec("insert into later values (0)").await?;
        let open = cluster.query_one(name).await?;
        let database = cluster
            .query_one("select 'base/' || oid from pg_database where datname = current_database()")
            .await?;
        let table = cluster
            .query_one("select pg_relation_filepath('pgbench_accounts')")
            .await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        cluster.stop(StopMode::Fast).await?;

        let reader = Reader::new(&seawall, &scratch)?;
        let list = reader.run(&["list"]).await?;
        for backup in [&first, &second] {
            let backup = json_str(backup, "backup")?;
            assert!(list.contains(&format!("backup {backup}: ")), "{list}");
            let target = ["--backup", backup, "--target", "immediate"];
            let ours = seawall.restore_files(&format!("ours-{backup}"), &target).await?;
            let theirs = reader.unpack(backup, &database).await?;
            tree::assert_same(&ours.join(&database), &theirs.join(&database), &[])?;
            let mut files = tree::files(&theirs.join(&database))?;
            files.retain(|file| file.metadata().is_ok_and(|metadata| metadata.len() > 0));
            assert!(files.len() > 200, "{files:?}");
            fs::remove_dir_all(&theirs)?;
        }

        let backup = json_str(&second, "backup")?;
        let ours = scratch.join(format!("ours-{backup}")).join("data");
        let files = reader.run(&["list", "--backup", backup]).await?;
        for path in [&table, "postgresql.conf", "global/pg_control", "backup_label"] {
            let theirs = reader.read(&["file", "--backup", backup, "--path", path]).await?;
            assert!(theirs == fs::read(ours.join(path))?, "{path} differs");
            assert!(
                files.contains(&format!(" {path}\n")) || path == "backup_label",
                "{files}"
            );
        }
        for segment in [&whole, &open] {
            let theirs = reader.read(&["wal", "--timeline", "1", "--segment", segment]).await?;
            let bytes = wal_get(&seawall, &scratch, &ours, segment).await?;
            assert!(theirs == bytes, "{segment} differs");
        }

        let table = ["file", "--backup", backup, "--path", &table];
        let segment = ["wal", "--timeline", "1", "--segment", &whole];
        reader
            .refuses_when_damaged(&data_packs(&seawall)?, &table, "is damaged")
            .await?;
        reader
            .refuses_when_damaged(&seawall.wal_objects(&whole)?, &segment, "lacks WAL from")
            .await?;
        reader
            .refuses(
                &["file", "--backup", backup, "--path", "base/nothing"],
                "has no base/nothing",
            )
            .await?;
        let (code, _, error) = reader.run_with("host.key", &["list"]).await?;
        assert!(code == Some(REFUSED) && error.contains("no restore key"), "{error}");
        // All of that was repaired.
        reader.read(&table).await?;
        reader.read(&segment).await?;
        Ok(())
    });
}
