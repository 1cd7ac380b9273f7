//! Restores of the last full backup by each program, into directories of their own, and again over what is there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pg::page::PAGE_BYTES;

use crate::peers::pages::relation_files;
use crate::peers::process::{Ran, check_interrupted, measure};
use crate::peers::program::{Over, Program, Runs};
use crate::server::Server;

/// One page in so many is overwritten before the last restore over what is there.
const ONE_PAGE_IN: u64 = 100;

/// What the programs took, round after round.
#[derive(Debug, Default)]
pub struct Restores {
    /// Into an empty directory.
    pub full: Runs<Ran>,
    /// Over the same cluster, in which nothing changed.
    pub same: Runs<Ran>,
    /// Over the same cluster, in which one page in a hundred was overwritten.
    pub damaged: Runs<Ran>,
    /// A copy of the cluster's files, made durable: what the disk can do.
    pub copied: Vec<Ran>,
}

/// One round.
///
/// # Errors
/// A program failed.
pub fn round(server: &Server, programs: &[&dyn Program], home: &Path, all: &mut Restores) -> io::Result<()> {
    std::fs::create_dir(home)?;
    server.give(home)?;
    let copy = home.join("copy");
    let mut command = server.command(Path::new("/bin/sh"));
    command
        .args(["-c", "cp -r --sparse=never \"$0\" \"$1\" && sync -f \"$1\""])
        .args([server.data().as_path(), &copy]);
    all.copied.push(measure(&mut command, &home.join("copy.out"))?);
    std::fs::remove_dir_all(copy)?;

    let (mut again, mut cannot) = (Vec::new(), Vec::new());
    for program in programs {
        let to = home.join(program.name().replace(' ', "_"));
        all.full.add(program.name(), program.restore(&to, Over::Nothing)?);
        let same = program.restore(&to, Over::Cluster)?;
        match same {
            Ok(_) => again.push((*program, to)),
            Err(lacks) => {
                cannot.push((program.name(), lacks));
                remove(&to)?;
            }
        }
        all.same.add(program.name(), same);
        check_interrupted()?;
    }
    for (program, to) in &again {
        damage(to)?;
        all.damaged.add(program.name(), program.restore(to, Over::Cluster)?);
    }
    for (name, lacks) in cannot {
        all.damaged.add(name, Err(lacks));
    }
    std::fs::remove_dir_all(home)
}

/// It may be none, where nothing could be restored.
fn remove(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
