//! Makes a tree of mixed kinds: the same one every time, but for the times that the file system gives.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use store::testing::bytes_of;

/// Names that a shell, a table or a sort may stumble over.
const ODD: [&[u8]; 16] = [
    b"two\nlines",
    b"tab\t",
    b" spaces ",
    b"-rf",
    b"\xff\xfe not text",
    b"\xc3\x28",
    b"*?[x]",
    b"back\\slash",
    b"quote\"'`$(x)",
    b"...",
    b"a-b",
    b"a.b",
    b"a0",
    b"\x01\x7f",
    b".hidden",
    b"x.sealed",
];

/// Counts what it makes.
struct Maker<'d> {
    data: &'d Path,
    made: usize,
}

/// Makes the directory, with so many entries, itself among them.
pub fn all(data: &Path, entries: usize) {
    let mut maker = Maker { data, made: 0 };
    maker.directory("");
    maker.odd();
    maker.deep();
    maker.large();
    maker.linked();
    maker.special();
    maker.wide(20_000);
    maker.spread(entries - maker.made);
    dress(data, entries);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Where the file system takes none, none is there to come back.
pub fn extend(path: &Path, name: &str, value: &[u8]) {
    let _ = setxattr(path, name, value, XattrFlags::empty());
}

impl Maker<'_> {
    fn directory(&mut self, path: impl AsRef<Path>) -> PathBuf {
        let path = self.data.join(path);
        DirBuilder::new().create(&path).unwrap();
        self.made += 1;
        path
    }

    fn file(&mut self, path: impl AsRef<Path>, content: &[u8]) -> PathBuf {
        let path = self.data.join(path);
        fs::write(&path, content).unwrap();
        self.made += 1;
        path
    }

    fn link(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) {
        symlink(target, self.data.join(path)).unwrap();
        self.made += 1;
    }

    fn name(&mut self, path: impl AsRef<Path>, of: impl AsRef<Path>) {
        fs::hard_link(self.data.join(of), self.data.join(path)).unwrap();
        self.made += 1;
    }

    fn node(&mut self, path: &str, kind: FileType, device: u64) {
        mknodat(CWD, self.data.join(path), kind, Mode::from_raw_mode(0o640), device).unwrap();
        self.made += 1;
    }

    /// Each odd name as a file, as a directory with a file of that name in it, and as a link's target.
    fn odd(&mut self) {
        for directory in ["odd", "odd/files", "odd/directories", "odd/links", "odd/a"] {
            self.directory(directory);
        }
        let long = OsString::from_vec(vec![b'n'; 255]);
        let odd = ODD.iter().map(|name| OsString::from_vec(name.to_vec()));
        for name in odd.chain([long]) {
            self.file(Path::new("odd/files").join(&name), name.as_encoded_bytes());
            let directory = Path::new("odd/directories").join(&name);
            self.directory(&directory);
            self.file(directory.join(&name), b"below");
            self.link(Path::new("odd/links").join(&name), Path::new("../files").join(&name));
        }
        // In the order of bytes these lie between a directory and what is in it.
        for name in ["odd/a/b", "odd/a!", "odd/a-b", "odd/a.b", "odd/a0"] {
            self.file(name, name.as_bytes());
        }
    }

    fn deep(&mut self) {
        let mut path = PathBuf::from("deep");
        self.directory(&path);
        for level in 0..150 {
            path.push(format!("{level}"));
            self.directory(&path);
        }
        self.file(path.join("bottom"), b"far down");
        let mut path = PathBuf::from("long");
        self.directory(&path);
        for _ in 0..10 {
            path.push("l".repeat(140));
            self.directory(&path);
        }
        self.file(path.join("bottom"), b"far down");
    }

    fn large(&mut self) {
        self.directory("large");
        for number in 0..40_u64 {
            let length = 100_000 + (number as usize * 77_777) % 3_000_000;
            self.file(format!("large/{number}"), &bytes_of(number, length));
        }
        for number in 0..20_u64 {
            let path = self.file(format!("large/sparse-{number}"), b"");
            let file = File::options().write(true).open(path).unwrap();
            file.set_len((8 << 20) + number * 1_000_003).unwrap();
            if number > 0 {
                file.write_all_at(&bytes_of(number, 5000), number * 300_007).unwrap();
            }
        }
    }

    /// Files of several names: beside each other, in other directories, before and behind the first in the order of paths.
    fn linked(&mut self) {
        for directory in ["linked", "linked/a", "linked/z", "a-first"] {
            self.directory(directory);
        }
        for number in 0..1000_u64 {
            let first = format!("linked/m-{number}");
            self.file(&first, &bytes_of(number, (number as usize * 13) % 3000));
            let others = [
                format!("linked/a/{number}"),
                format!("linked/z/of-{number}"),
                format!("a-first/{number}"),
            ];
            for other in others.iter().take(1 + number as usize % 3) {
                self.name(other, &first);
            }
        }
    }

    fn special(&mut self) {
        self.directory("special");
        for number in 0..200 {
            self.node(&format!("special/pipe-{number}"), FileType::Fifo, 0);
            self.link(
                format!("special/dangling-{number}"),
                format!("/nowhere/at all/{number}"),
            );
            self.link(format!("special/inside-{number}"), format!("pipe-{number}"));
            self.link(format!("special/itself-{number}"), format!("itself-{number}"));
        }
        self.link("special/to-directory", "../linked");
        self.link("special/outside", "/etc");
        drop(UnixListener::bind(self.data.join("special/socket")).unwrap());
        self.made += 1;
        if rustix::process::geteuid().is_root() {
            self.node("special/null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        }
        for (number, bits) in [0o4755, 0o2755, 0o6711, 0o1644, 0o400, 0o777, 0o111]
            .into_iter()
            .enumerate()
        {
            let path = self.file(format!("special/mode-{number}"), b"mode");
            mode(&path, bits);
            let path = self.directory(format!("special/directory-{number}"));
            mode(&path, bits | 0o500);
        }
        if rustix::process::geteuid().is_root() {
            // Whoever is not could not read it.
            let path = self.file("special/none", b"nobody");
            mode(&path, 0);
        }
    }

    /// Very many in one directory.
    fn wide(&mut self, count: u64) {
        self.directory("wide");
        for number in 0..count {
            match number % 10 {
                9 => self.link(format!("wide/{number}"), format!("{}", number + 1)),
                _ => drop(self.file(format!("wide/{number}"), format!("number {number}").as_bytes())),
            }
        }
    }

    /// The rest: some files in each of many directories.
    fn spread(&mut self, count: usize) {
        let end = self.made + count;
        self.directory("spread");
        for number in 0_u64.. {
            if self.made == end {
                return;
            }
            let directory = PathBuf::from(format!("spread/{}", number / 25));
            if number % 25 == 0 {
                self.directory(directory);
                continue;
            }
            let length = match number % 11 {
                0 => 0,
                1 => 5000,
                of => (number as usize * 37 + of as usize) % 700,
            };
            self.file(directory.join(format!("{number}")), &bytes_of(number, length));
        }
    }
}

/// Attributes, owners, modes and times, of some of the spread; directories last.
fn dress(data: &Path, entries: usize) {
    let is_root = rustix::process::geteuid().is_root();
    for number in (1..entries as u64 / 2).filter(|number| number % 25 != 0) {
        let path = data.join(format!("spread/{}/{number}", number / 25));
        if number % 7 == 0 {
            extend(&path, "user.number", number.to_string().as_bytes());
        }
        if number % 5 == 0 {
            mode(&path, [0o600, 0o640, 0o755, 0o444][number as usize / 5 % 4]);
        }
        if is_root && number % 13 == 0 {
            chown(&path, Some(1000 + number as u32 % 50), Some(2000)).unwrap();
        }
        if number % 3 == 0 {
            let at = UNIX_EPOCH + Duration::new(1_000_000_000 + number * 1000, number as u32 * 17 + 1);
            File::open(&path).unwrap().set_modified(at).unwrap();
        }
    }
    let directory = data.join("spread/3");
    extend(&directory, "user.of-a-directory", b"\x00\xff");
    let before = UNIX_EPOCH - Duration::new(86_400, 5);
    File::open(data.join("spread/3/76"))
        .unwrap()
        .set_modified(before)
        .unwrap();
    File::open(directory).unwrap().set_modified(before).unwrap();
}
