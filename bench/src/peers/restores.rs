//! Restores of the last full backup by each program, into directories of their own, and again over what is there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pg::page::PAGE_BYTES;

use crate::peers::ours::Ours;
use crate::peers::pages::relation_files;
use crate::peers::process::{Ran, measure};
use crate::peers::theirs::PgBackRest;
use crate::server::Server;

/// One page in so many is overwritten before the last restore over what is there.
const ONE_PAGE_IN: u64 = 100;

/// What the programs took, round after round.
#[derive(Debug, Default)]
pub struct Restores {
    /// Into an empty directory: ours, pgBackRest.
    pub full: (Vec<Ran>, Vec<Ran>),
    /// Over the same cluster, in which nothing changed.
    pub same: (Vec<Ran>, Vec<Ran>),
    /// Over the same cluster, in which one page in a hundred was overwritten.
    pub damaged: (Vec<Ran>, Vec<Ran>),
    /// A copy of the cluster's files, made durable: what the disk can do.
    pub copied: Vec<Ran>,
}

/// One round.
///
/// # Errors
/// A program failed.
pub fn round(
    server: &Server,
    ours: &Ours<'_>,
    theirs: &PgBackRest<'_>,
    home: &Path,
    all: &mut Restores,
) -> io::Result<()> {
    std::fs::create_dir(home)?;
    server.give(home)?;
    let copy = home.join("copy");
    let mut command = server.command(Path::new("/bin/sh"));
    command
        .args(["-c", "cp -r --sparse=never \"$0\" \"$1\" && sync -f \"$1\""])
        .args([server.data().as_path(), &copy]);
    all.copied.push(measure(&mut command, &home.join("copy.out"))?);
    std::fs::remove_dir_all(copy)?;

    let (here, there) = (home.join("ours"), home.join("theirs"));
    std::fs::create_dir(&there)?;
    server.give(&there)?;
    all.full.0.push(ours.restore(&here, &[])?);
    all.full.1.push(theirs.restore(&there, &[])?);
    all.same.0.push(ours.restore(&here, &["--delta"])?);
    all.same.1.push(theirs.restore(&there, &["--delta"])?);
    for data in [&here, &there] {
        damage(data)?;
    }
    all.damaged.0.push(ours.restore(&here, &["--delta"])?);
    all.damaged.1.push(theirs.restore(&there, &["--delta"])?);
    std::fs::remove_dir_all(home)
}

/// Overwrites a part of every hundredth page.
fn damage(data: &Path) -> io::Result<()> {
    for (path, _) in relation_files(data)? {
        let file = File::options().write(true).open(&path)?;
        let pages = file.metadata()?.len() / PAGE_BYTES as u64;
        for page in (0..pages).skip(7).step_by(usize::try_from(ONE_PAGE_IN).unwrap_or(1)) {
            file.write_all_at(&[0xA5; 64], page * PAGE_BYTES as u64 + 4000)?;
        }
    }
    Ok(())
}

/// The program that restores, beside the agent.
pub(super) fn restore_of(agent: &Path) -> PathBuf {
    agent.with_file_name("wal-restore")
}

/// A restore without recovery: files only.
pub(super) fn restore(command: &mut Command, to: &Path, args: &[&str], output: &Path) -> io::Result<Ran> {
    command
        .args(args)
        .args(["--target", "immediate", "--json", "--pgdata"])
        .arg(to);
    measure(command, output)
}
