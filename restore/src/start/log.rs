//! What a server that died said last.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of a log's end is read.
const TAIL_BYTES: u64 = 256 << 10;

/// The last FATAL or PANIC in the server's log, wherever it writes it.
pub(super) fn last_fatal(pgdata: &Path, first: &Path) -> Option<String> {
    let collected = ["log", "pg_log"].iter().filter_map(|name| newest(&pgdata.join(name)));
    std::iter::once(first.to_owned())
        .chain(collected)
        .find_map(|path| in_text(&tail(&path)?))
}

fn newest(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let dated = entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
    dated.max().map(|(_, path)| path)
}

fn tail(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn in_text(text: &str) -> Option<String> {
    // A standby of us that connects too early is no news.
    let is_news =
        |line: &&str| (line.contains("FATAL:") || line.contains("PANIC:")) && !line.contains("the database system is");
    let line = text.lines().rev().find(is_news)?;
    let at = line.find("FATAL:").or_else(|| line.find("PANIC:"))?;
    Some(
        line.get(at..)?
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_real_failure_is_told() {
        let text =
            "x LOG:  a\nx FATAL:  one\nx FATAL:  two\tmore\nx FATAL:  the database system is starting up\nx LOG:  b\n";
        assert_eq!(in_text(text).unwrap(), "FATAL:  two more");
        assert_eq!(in_text("LOG:  fine\n"), None);
    }
}
