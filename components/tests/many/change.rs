//! Some percent of the tree becomes another: content, names, modes, kinds.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use store::testing::bytes_of;

use crate::make::extend;

/// What must be stored anew.
#[derive(Debug, Default)]
pub struct Changed {
    /// Bytes of new content, at most.
    pub bytes: u64,
}

fn spread(data: &Path, number: usize) -> PathBuf {
    data.join(format!("spread/{}/{number}", number / 25))
}

fn open(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

pub fn some(data: &Path) -> Changed {
    let mut changed = Changed::default();
    // Of every file of the spread that has its turn, one thing is changed.
    for number in (1..60_000).filter(|number| number % 25 != 0 && number % 12 == 1) {
        let path = spread(data, number);
        one(&path, number / 12, &mut changed);
    }
    whole(data, &mut changed);
    changed
}

fn one(path: &Path, turn: usize, changed: &mut Changed) {
    let metadata = fs::metadata(path).unwrap();
    let anew = bytes_of(1 << 40 | turn as u64, metadata.len() as usize);
    match turn % 12 {
        0 => {
            // Neither size nor time tells it.
            open(path).write_all_at(&anew, 0).unwrap();
            open(path).set_modified(metadata.modified().unwrap()).unwrap();
            changed.bytes += metadata.len();
        }
        1 => {
            let mut file = File::options().append(true).open(path).unwrap();
            file.write_all(b"and more").unwrap();
            changed.bytes += metadata.len() + 8;
        }
        2 => fs::remove_file(path).unwrap(),
        3 => fs::rename(path, path.with_extension("renamed")).unwrap(),
        4 => fs::set_permissions(path, Permissions::from_mode(0o2710)).unwrap(),
        5 => {
            fs::remove_file(path).unwrap();
            symlink("a file once", path).unwrap();
        }
        6 => {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), b"a directory now").unwrap();
        }
        7 => extend(path, "user.late", b"yes"),
        8 => {
            let at = UNIX_EPOCH + Duration::new(1_234_567_890, 987_654_321);
            open(path).set_modified(at).unwrap();
        }
        9 => {
            // Replaced as editors do it: another inode with the same content and time.
            let aside = path.with_extension("aside");
            fs::copy(path, &aside).unwrap();
            open(&aside).set_modified(metadata.modified().unwrap()).unwrap();
            fs::rename(aside, path).unwrap();
        }
        10 => {
            open(path).set_len(metadata.len() / 2).unwrap();
            changed.bytes += metadata.len();
        }
        _ => {
            fs::write(path.with_extension("new"), &anew).unwrap();
            changed.bytes += metadata.len();
        }
    }
}

/// What is not of the spread.
fn whole(data: &Path, changed: &mut Changed) {
    // Directories with all that is in them.
    fs::rename(data.join("spread/100"), data.join("spread/0-renamed")).unwrap();
    fs::remove_dir_all(data.join("spread/101")).unwrap();
    fs::remove_dir_all(data.join("spread/102")).unwrap();
    fs::write(data.join("spread/102"), b"a directory once").unwrap();
    // Another content behind a name; a name that leads to another file; a file that lost a name, and one that got one.
    for number in 0..100 {
        let first = data.join(format!("linked/m-{number}"));
        let other = data.join(format!("linked/a/{number}"));
        match number % 4 {
            0 => open(&first).write_all_at(b"changed under all its names", 0).unwrap(),
            1 => {
                fs::remove_file(&other).unwrap();
                fs::copy(&first, &other).unwrap();
            }
            2 => fs::remove_file(&first).unwrap(),
            _ => fs::hard_link(&first, data.join(format!("a-first/again-{number}"))).unwrap(),
        }
        changed.bytes += 3000;
    }
    for number in 0..20 {
        let (pipe, link) = (
            data.join(format!("special/pipe-{number}")),
            data.join(format!("special/dangling-{number}")),
        );
        fs::remove_file(&pipe).unwrap();
        fs::write(&pipe, b"a pipe once").unwrap();
        fs::remove_file(&link).unwrap();
        symlink("elsewhere", &link).unwrap();
    }
    // In the middle of what is large, and in a hole.
    open(&data.join("large/7")).write_all_at(&[7; 5000], 300_000).unwrap();
    open(&data.join("large/sparse-0"))
        .write_all_at(b"no hole", 4 << 20)
        .unwrap();
    open(&data.join("large/sparse-1")).set_len(12 << 20).unwrap();
    changed.bytes += 6 << 20;
}
