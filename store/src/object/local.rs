//! Objects as files under a directory: a mounted disk, an NFS export, a test.
//!
//! `<root>/<name>` is the object; `<root>/.tmp` holds what is being written and is never listed. How a put becomes durable is
//! argued in [`place`](self::place). A crash leaves at most a file in `.tmp` ([`LocalStore::remove_stale_temporaries`]).
//!
//! A root that is gone or replaced (an unmounted disk leaves an empty mount point) is never mistaken for an empty repository:
//! every call checks that the directory is the one that was opened. Another directory is accepted only if it holds the
//! repository's own `seawall.json` (an automounter gave the file system another device number).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    ByteRange, Capabilities, ErrorClass, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, Operation,
    Outcome, PutNew,
};

mod io_error;
mod place;
mod root;
mod walk;

use io_error::io_error;
use root::Root;

/// How files are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LocalOptions {
    /// The group of the directory may read (0640 and 0750 instead of 0600 and 0700).
    pub group_read: bool,
}

/// A directory of objects. Clones share it.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: Arc<Root>,
}

impl LocalStore {
    /// Opens an existing directory. Creates nothing.
    ///
    /// # Errors
    /// There is no directory at `root`, or it cannot be read.
    pub fn open(root: PathBuf) -> Result<Self, ObjectError> {
        LocalStore::open_with(root, LocalOptions::default())
    }

    /// As [`LocalStore::open`], with options.
    ///
    /// # Errors
    /// As [`LocalStore::open`].
    pub fn open_with(root: PathBuf, options: LocalOptions) -> Result<Self, ObjectError> {
        Ok(LocalStore {
            root: Arc::new(Root::open(root, options)?),
        })
    }

    /// Creates the directory and its missing ancestors durably, or opens it if it is there.
    ///
    /// # Errors
    /// It cannot be created or opened.
    pub fn create(root: PathBuf) -> Result<Self, ObjectError> {
        LocalStore::create_with(root, LocalOptions::default())
    }

    /// As [`LocalStore::create`], with options.
    ///
    /// # Errors
    /// As [`LocalStore::create`].
    pub fn create_with(root: PathBuf, options: LocalOptions) -> Result<Self, ObjectError> {
        root::create_directories(&root, options).map_err(|error| {
            io_error(
                Operation::Open,
                root.display(),
                Outcome::Unknown,
                "create directory",
                error,
            )
        })?;
        LocalStore::open_with(root, options)
    }

    /// Where the objects are.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Removes temporaries that crashed writers left, if they are older than `older_than` by the file system's own clock.
    /// Choose it far longer than any put takes. Returns how many were removed.
    ///
    /// # Errors
    /// The directory cannot be read or changed.
    pub async fn remove_stale_temporaries(&self, older_than: Duration) -> Result<usize, ObjectError> {
        let root = Arc::clone(&self.root);
        blocking(Operation::Delete, "", move || {
            place::remove_stale_temporaries(&root, older_than)
        })
        .await
    }
}

/// Runs file I/O where it may block.
async fn blocking<T: Send + 'static>(
    operation: Operation,
    name: &str,
    work: impl FnOnce() -> Result<T, ObjectError> + Send + 'static,
) -> Result<T, ObjectError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            let detail = "the thread that did it stopped";
            Err(ObjectError::new(operation, name, Outcome::Unknown, ErrorClass::Transient, detail).with_source(error))
        }
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        let (root, owned) = (Arc::clone(&self.root), name.clone());
        blocking(Operation::PutNew, name.as_str(), move || {
            place::put_new(&root, &owned, &body)
        })
        .await
    }

    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        let (root, owned) = (Arc::clone(&self.root), name.clone());
        blocking(Operation::Get, name.as_str(), move || root.read(&owned, range)).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        let (root, owned) = (Arc::clone(&self.root), name.clone());
        blocking(Operation::Head, name.as_str(), move || root.head(&owned)).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        let (root, owned, after) = (Arc::clone(&self.root), prefix.to_owned(), after.map(str::to_owned));
        blocking(Operation::List, prefix, move || {
            walk::list_page(&root, &owned, after.as_deref(), max.max(1))
        })
        .await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        let (root, owned) = (Arc::clone(&self.root), name.clone());
        blocking(Operation::Delete, name.as_str(), move || place::delete(&root, &owned)).await
    }

    async fn keep_locked(&self, _: &ObjectName) -> Result<(), ObjectError> {
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            create_only: true,
            locks: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    fn name(text: &str) -> ObjectName {
        ObjectName::new(text).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o7777
    }

    /// An open store and the directory that it is in.
    fn store() -> (tempfile::TempDir, LocalStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::create(dir.path().join("root")).unwrap();
        (dir, store)
    }

    async fn put(store: &LocalStore, text: &str) {
        assert_eq!(
            store.put_new(&name(text), Bytes::from_static(b"x")).await.unwrap(),
            PutNew::Created
        );
    }

    #[tokio::test]
    async fn open_never_creates_a_root_and_a_missing_one_is_no_missing_object() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("not/mounted");
        let error = LocalStore::open(root.clone()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Misconfigured);
        assert!(error.hint().is_some() && !root.exists());
        let (_dir, store) = store();
        put(&store, "a/b").await;
        std::fs::rename(store.path(), store.path().with_extension("away")).unwrap();
        let classes = [
            store.get(&name("a/b"), ByteRange::All).await.unwrap_err().class(),
            store.head(&name("a/b")).await.unwrap_err().class(),
            store.list_page("", None, 10).await.unwrap_err().class(),
            store.put_new(&name("a/c"), Bytes::new()).await.unwrap_err().class(),
            store.delete(&name("a/b")).await.unwrap_err().class(),
        ];
        assert_eq!(classes, [ErrorClass::Misconfigured; 5]);
        assert!(!store.path().exists());
    }

    #[tokio::test]
    async fn an_empty_mount_point_is_refused_and_a_remounted_repository_is_accepted() {
        let (_dir, store) = store();
        put(&store, "seawall.json").await;
        let away = store.path().with_extension("away");
        std::fs::rename(store.path(), &away).unwrap();
        std::fs::create_dir(store.path()).unwrap();
        let error = store.put_new(&name("a"), Bytes::new()).await.unwrap_err();
        assert_eq!(
            (error.class(), error.outcome()),
            (ErrorClass::Misconfigured, Outcome::DidNotHappen)
        );
        assert_eq!(
            std::fs::read_dir(store.path()).unwrap().count(),
            0,
            "nothing is written to the wrong place"
        );
        std::fs::copy(away.join("seawall.json"), store.path().join("seawall.json")).unwrap();
        put(&store, "a").await;
    }

    #[tokio::test]
    async fn modes_are_private_unless_the_group_may_read() {
        for (options, file, directory) in [
            (LocalOptions::default(), 0o600, 0o700),
            (LocalOptions { group_read: true }, 0o640, 0o750),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let store = LocalStore::create_with(dir.path().join("deep/root"), options).unwrap();
            put(&store, "a/b").await;
            let modes = ["", "a", ".tmp", "a/b"].map(|path| mode(&store.path().join(path)));
            assert_eq!(modes, [directory, directory, directory, file]);
        }
    }

    #[tokio::test]
    async fn what_is_made_belongs_to_whom_the_repository_belongs() {
        use std::os::unix::fs::MetadataExt as _;
        let (_dir, store) = store();
        // Only root can give it away; whoever else runs this owns it himself.
        let owner = match store.path().metadata().unwrap().uid() {
            0 => 65534,
            own => own,
        };
        std::os::unix::fs::chown(store.path(), Some(owner), None).unwrap();
        put(&store, "a/b").await;
        for path in ["a", "a/b", ".tmp"] {
            let made = store.path().join(path).metadata().unwrap();
            assert_eq!(made.uid(), owner, "{path}");
        }
    }

    #[tokio::test]
    async fn no_temporary_is_left_and_the_stale_ones_of_others_are_removed() {
        let (_dir, store) = store();
        put(&store, "a").await;
        assert_eq!(
            store.put_new(&name("a"), Bytes::new()).await.unwrap(),
            PutNew::AlreadyExists
        );
        let temporaries = store.path().join(".tmp");
        assert_eq!(std::fs::read_dir(&temporaries).unwrap().count(), 0);
        assert_eq!(store.path().join("a").metadata().unwrap().nlink(), 1);
        let stale = std::fs::File::create(temporaries.join("stale")).unwrap();
        stale
            .set_modified(stale.metadata().unwrap().modified().unwrap() - Duration::from_secs(7200))
            .unwrap();
        std::fs::write(temporaries.join("fresh"), "").unwrap();
        assert_eq!(
            store.remove_stale_temporaries(Duration::from_secs(3600)).await.unwrap(),
            1
        );
        assert!(temporaries.join("fresh").exists() && !temporaries.join("stale").exists());
        assert_eq!(
            store.list_page("", None, 10).await.unwrap().objects.len(),
            1,
            "temporaries are not listed"
        );
    }

    #[tokio::test]
    async fn links_inside_the_repository_are_never_followed_and_never_overlooked() {
        let (dir, store) = store();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("b"), "secret").unwrap();
        symlink(&outside, store.path().join("a")).unwrap();
        symlink(outside.join("b"), store.path().join("link")).unwrap();
        for object in ["a/b", "link", "a/new"] {
            let errors = [
                store.get(&name(object), ByteRange::All).await.unwrap_err(),
                store.put_new(&name(object), Bytes::new()).await.unwrap_err(),
                store.head(&name(object)).await.unwrap_err(),
            ];
            assert!(errors.iter().all(|error| !error.is_not_found()), "{object}: {errors:?}");
        }
        assert_eq!(
            store.list_page("", None, 10).await.unwrap_err().class(),
            ErrorClass::Misconfigured
        );
        assert_eq!(store.list_page("other/", None, 10).await.unwrap(), ListPage::default());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(std::fs::read(outside.join("b")).unwrap(), b"secret");
    }

    #[tokio::test]
    async fn a_directory_in_the_way_is_an_error_not_an_existing_object() {
        let (_dir, store) = store();
        put(&store, "a/b").await;
        assert_eq!(
            store.put_new(&name("a"), Bytes::new()).await.unwrap_err().class(),
            ErrorClass::Misconfigured
        );
        assert!(store.put_new(&name("a/b/c"), Bytes::new()).await.is_err());
        store.delete(&name("a")).await.unwrap();
        assert!(store.head(&name("a/b")).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn emptied_directories_go_and_foreign_names_are_counted() {
        let (_dir, store) = store();
        put(&store, "a/b/c").await;
        put(&store, "a/d").await;
        std::fs::create_dir(store.path().join("lost+found")).unwrap();
        store.delete(&name("a/b/c")).await.unwrap();
        assert!(!store.path().join("a/b").exists() && store.path().join("a").exists());
        assert_eq!(store.list_page("", None, 10).await.unwrap().foreign, 1);
        put(&store, "a/b/c").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn writers_survive_a_deleter_that_removes_their_directory() {
        let (_dir, store) = store();
        let (w, d) = (store.clone(), store.clone());
        let writer = tokio::spawn(async move {
            for n in 0..200 {
                put(&w, &format!("x/y/{n}")).await;
            }
        });
        let deleter = tokio::spawn(async move {
            for n in 0..200 {
                d.delete(&name(&format!("x/y/{n}"))).await.unwrap();
            }
        });
        let (written, deleted) = (writer.await, deleter.await);
        assert!(written.is_ok() && deleted.is_ok());
    }
}
