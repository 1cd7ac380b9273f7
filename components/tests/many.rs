//! A hundred thousand entries of every kind, captured, changed, captured again, and both brought back: exactly, by a walk of the test's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "many/change.rs"]
mod change;
#[path = "many/make.rs"]
mod make;
#[path = "many/seen.rs"]
mod seen;
mod stage;

use std::path::Path;
use std::time::Duration;

use components::Component as _;
use components::files::{Excludes, Files};
use seen::{differences, see};
use stage::Stage;

const ENTRIES: usize = 100_000;
/// Long enough for a file to be taken for unchanged without being read.
const HOUR: Duration = Duration::from_secs(3600);

/// As if so much time had passed.
fn files(data: &Path, after: Duration) -> Files {
    Files {
        paths: vec![data.to_owned()],
        excludes: Excludes::new(&[]).unwrap(),
        one_file_system: false,
        reads_all: false,
        now_us: Stage::clock_after(after),
    }
}

#[tokio::test]
async fn a_hundred_thousand_entries_of_every_kind_come_back_as_they_were() {
    // A million system calls are to take as long as they take, not as long as others use the disk.
    let memory = Path::new("/dev/shm");
    let stage = match memory.is_dir() {
        true => Stage::below_directory(memory).await,
        false => Stage::new().await,
    };
    let data = stage.path("data");
    make::all(&data, ENTRIES);
    let first = see(&data);
    assert_eq!(first.len(), ENTRIES, "entries");
    let one = stage.take(&files(&data, HOUR)).await.unwrap();

    let changed = change::some(&data);
    let second = see(&data);
    let differs = differences(&first, &second).len();
    assert!(differs > ENTRIES / 50 && differs < ENTRIES / 5, "{differs}");
    let two = stage.take(&files(&data, 2 * HOUR)).await.unwrap();
    assert_eq!(two.parent, Some(one.backup));
    // New content, and the table of the files.
    let (all, new) = (one.totals.new_stored_bytes, two.totals.new_stored_bytes);
    assert!(new < changed.bytes + all / 4, "{new} of {all}, {changed:?}");
    // Nothing has changed: nothing is stored but what says so.
    let three = stage.take(&files(&data, 3 * HOUR)).await.unwrap();
    assert!(
        three.totals.new_stored_bytes < 100_000,
        "{}",
        three.totals.new_stored_bytes
    );
    assert!(one.vanished.is_empty() && two.vanished.is_empty() && three.vanished.is_empty());

    for (manifest, was, name) in [(&one, &first, "one"), (&three, &second, "three")] {
        let to = stage.path(name);
        let restored = stage.restore(manifest, &to, false).await.unwrap();
        assert_eq!((restored.same, restored.replaced), (0, 0), "{name}");
        let found = see(&stage.below(&to, &data));
        assert_eq!(differences(was, &found), Vec::<String>::new(), "{name}");
        let captured = manifest.component.as_ref().unwrap();
        assert_eq!(captured.changed.len(), 0, "{name}");
        let differs = files(&data, HOUR).compare(&captured.facts, &to).await.unwrap();
        assert_eq!(differs, Vec::<String>::new(), "{name}");
    }
    // The second is the third under another name; over it all is found to be the same.
    let again = stage.restore(&two, &stage.path("three"), true).await.unwrap();
    assert_eq!((again.replaced, again.bytes), (0, 0), "{again:?}");
    let found = see(&stage.below(&stage.path("three"), &data));
    assert_eq!(differences(&second, &found), Vec::<String>::new());
}
