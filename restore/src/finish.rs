//! The end of a restore, in the order that makes a half-restored directory impossible to start (law 6): everything durable, then
//! configuration, label, signal and settings, durable again, then pg_control by rename, then the marker goes.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use pg::backup_manifest::{self, ManifestFacts, ManifestFile};
use pg::control::ControlFile;
use pg::identity::ServerVersion;
use pg::lsn::Lsn;
use store::file_table::{EntryClass, EntryType, FileEntry};
use store::manifest::Manifest;
use store::repository::Repository;

use crate::error::{RestoreError, Result};
use crate::fetch_files;
use crate::paths::{OURS, Place, captured, place};
use crate::place::INCOMPLETE;
use crate::settings;
use crate::state::{STATE, State};
use crate::time;
use crate::tree::Tree;
use crate::work::{Work, is_written_anew};

/// What a restore ends with.
#[derive(Debug)]
pub(crate) struct Finish<'a> {
    /// Where to write.
    pub(crate) tree: &'a Arc<Tree>,
    /// What was written.
    pub(crate) work: &'a Work,
    /// The backup.
    pub(crate) manifest: &'a Manifest,
    /// Its files.
    pub(crate) table: &'a [FileEntry],
    /// The data directory.
    pub(crate) pgdata: &'a Path,
    /// Recovery settings.
    pub(crate) block: Vec<(String, String)>,
    /// For `wal-get`.
    pub(crate) state: State,
    /// A standby.
    pub(crate) standby: bool,
    /// Mode of small files.
    pub(crate) file_mode: u32,
    /// Files that were written beside those of the backup, or in their place; empty at first.
    pub(crate) written: Vec<ManifestFile>,
}

/// The verified bytes of pg_control.
pub(crate) async fn control(repository: &Repository, work: &Work, manifest: &Manifest) -> Result<Vec<u8>> {
    let damaged = |reason: String| RestoreError::damaged("global/pg_control", reason);
    let entry = work
        .control
        .as_ref()
        .ok_or_else(|| damaged("is not in the backup".into()))?;
    let bytes = fetch_files::content(repository, &entry.content).await?;
    let control = ControlFile::parse(&bytes).map_err(|error| damaged(error.to_string()))?;
    if control.system_identifier.0 != manifest.system_identifier {
        return Err(damaged(format!(
            "is of system {}, the backup of {}",
            control.system_identifier, manifest.system_identifier
        )));
    }
    Ok(bytes)
}

impl Finish<'_> {
    /// Does all of it; `control` are the bytes of pg_control. Returns warnings.
    pub(crate) fn run(mut self, control: &[u8]) -> Result<Vec<String>> {
        self.hot_standby_settings(control);
        self.tree.sync()?;
        let warnings = self.place_configuration()?;
        self.write("backup_label", &self.manifest.backup_label)?;
        let auto_conf = Place::ours("postgresql.auto.conf");
        let old = self.tree.read_file(&auto_conf)?.unwrap_or_default();
        self.write("postgresql.auto.conf", &settings::rewrite_auto_conf(&old, &self.block))?;
        self.state.settings = self.block.iter().cloned().collect();
        self.write(&format!("{OURS}/{STATE}"), &self.state.to_json()?)?;
        let signal = if self.standby {
            "standby.signal"
        } else {
            "recovery.signal"
        };
        self.write(signal, b"")?;
        let manifest = self.backup_manifest();
        self.write("backup_manifest", &manifest)?;
        self.own_modes()?;
        self.tree.sync()?;
        self.write("global/pg_control", control)?;
        self.tree.remove_file(&Place::ours(&format!("{OURS}/{INCOMPLETE}")))?;
        Ok(warnings)
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.write_at(&Place::ours(path), bytes)
    }

    fn write_at(&mut self, place: &Place, bytes: &[u8]) -> Result<()> {
        self.tree.write_file(place, bytes, self.file_mode)?;
        self.written.push(ManifestFile::of(place.path(), bytes));
        Ok(())
    }

    /// What `pg_verifybackup` goes by: the files of the backup, and those that this restore has written.
    fn backup_manifest(&self) -> Vec<u8> {
        let is_ours = |path: &[u8]| self.written.iter().any(|file| *file.path == *path);
        let from_backup = |entry: &&FileEntry| entry.entry_type == EntryType::File && !is_written_anew(&entry.path);
        let mut files: Vec<ManifestFile> = self.table.iter().filter(from_backup).map(of_entry).collect();
        files.retain(|file| !is_ours(&file.path));
        files.extend(self.written.iter().cloned());
        let facts = ManifestFacts {
            major: ServerVersion(self.manifest.server_version).major(),
            system_identifier: self.manifest.system_identifier,
            modified: &time::show_gmt(self.manifest.finished_us),
            wal: (
                self.manifest.timeline,
                Lsn::new(self.manifest.start_lsn),
                Lsn::new(self.manifest.end_lsn),
            ),
        };
        backup_manifest::encode(&facts, &files)
    }

    /// At least what pg_control says: a hot standby stops where it has less than the primary had.
    fn hot_standby_settings(&mut self, control: &[u8]) {
        let Ok(control) = ControlFile::parse(control) else {
            return;
        };
        for (name, value) in [
            ("max_connections", control.max_connections),
            ("max_worker_processes", control.max_worker_processes),
            ("max_wal_senders", control.max_wal_senders),
            ("max_prepared_transactions", control.max_prepared_xacts),
            ("max_locks_per_transaction", control.max_locks_per_xact),
        ] {
            match self.block.iter_mut().find(|(found, _)| found == name) {
                Some((_, set)) if set.parse::<i32>().is_ok_and(|set| set >= value) => {}
                Some((_, set)) => *set = value.to_string(),
                None => self.block.push((name.to_owned(), value.to_string())),
            }
        }
    }

    /// Modes without write permission for the owner, which would have kept us from filling the files.
    fn own_modes(&self) -> Result<()> {
        for (place, _, mode) in self.work.files.iter().filter(|(_, _, mode)| mode & 0o600 != 0o600) {
            let file = self.tree.open_file(place)?;
            let mode = rustix::fs::Mode::from_raw_mode(mode & 0o777);
            rustix::fs::fchmod(&file, mode)
                .map_err(|errno| RestoreError::io("change the mode of", Path::new(&place.show()))(errno.into()))?;
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.work.files.iter().any(|(place, _, _)| *place == Place::ours(name))
    }

    /// Configuration files that lay outside the data directory go inside, where there are none.
    fn place_configuration(&mut self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let paths = self.manifest.configuration.clone();
        let minimal = [
            (
                "postgresql.conf",
                &paths.config,
                "# seawall: the backup holds no postgresql.conf\n",
            ),
            (
                "pg_hba.conf",
                &paths.hba,
                "# seawall: the backup holds no pg_hba.conf\nlocal all all peer\n",
            ),
            (
                "pg_ident.conf",
                &paths.ident,
                "# seawall: the backup holds no pg_ident.conf\n",
            ),
        ];
        for (name, original, otherwise) in minimal {
            if self.has(name) {
                continue;
            }
            let original = original.as_ref().map(|path| path.to_vec());
            let found = match original.as_ref().filter(|path| self.is_captured(path)) {
                Some(path) => self.tree.read_file(&captured(path)?)?,
                None => None,
            };
            match found {
                Some(bytes) if name == "postgresql.conf" => {
                    let directory = directory_of(original.as_deref().unwrap_or_default());
                    let new = settings::rewrite_conf(&bytes, |kind, include| self.copy_of(directory, kind, include));
                    self.write(name, &new)?;
                    self.place_includes(original.as_deref().unwrap_or_default(), &bytes)?;
                    warnings.push("postgresql.conf comes from outside the data directory: check its port and paths before this server runs beside the original".into());
                }
                Some(bytes) => self.write(name, &bytes)?,
                None => {
                    self.write(name, otherwise.as_bytes())?;
                    warnings.push(format!("the backup holds no {name}: a minimal one was written"));
                }
            }
        }
        Ok(warnings)
    }

    fn is_captured(&self, path: &[u8]) -> bool {
        self.work.configuration.iter().any(|(found, _)| found == path)
    }

    /// Where a file or directory that a configuration file includes is now, when it does not stand beside that file.
    fn copy_of(&self, directory: &[u8], kind: &str, include: &str) -> Option<String> {
        if settings::stays_beside(include) {
            return None;
        }
        let path = String::from_utf8(absolute(directory, include)).ok()?;
        let is_below = |found: &[u8]| {
            found == path.as_bytes() || found.starts_with(format!("{}/", path.trim_end_matches('/')).as_bytes())
        };
        // A directory without files is in no backup; the server wants to find it.
        let is_empty_directory = kind == "include_dir" && !include.starts_with('/');
        let known = is_empty_directory || self.work.configuration.iter().any(|(found, _)| is_below(found));
        known.then(|| {
            self.pgdata
                .join(OURS)
                .join("configuration")
                .join(path.trim_start_matches('/'))
                .to_string_lossy()
                .into_owned()
        })
    }

    /// Files beside the original postgresql.conf, and the directories that it includes.
    fn place_includes(&mut self, config: &[u8], text: &[u8]) -> Result<()> {
        let directory = directory_of(config);
        let mut prefix = directory.to_vec();
        prefix.push(b'/');
        let main = [
            &self.manifest.configuration.config,
            &self.manifest.configuration.hba,
            &self.manifest.configuration.ident,
        ];
        let work = self.work;
        for (path, _) in &work.configuration {
            let Some(below) = path.strip_prefix(prefix.as_slice()) else {
                continue;
            };
            let to = place(below, &[])?;
            if main.iter().any(|one| one.as_ref().is_some_and(|one| **one == **path))
                || self.tree.read_file(&to)?.is_some()
            {
                continue;
            }
            self.tree.make_ancestors(&to, 0o700)?;
            let bytes = self.tree.read_file(&captured(path)?)?.unwrap_or_default();
            let new = settings::rewrite_conf(&bytes, |kind, include| self.copy_of(directory_of(path), kind, include));
            self.write_at(&to, &new)?;
        }
        for line in text.split(|byte| *byte == b'\n') {
            if let Some(("include_dir", path)) = settings::include_of(line)
                && !path.starts_with('/')
            {
                let mut to = match settings::stays_beside(&path) {
                    true => place(path.trim_end_matches('/').as_bytes(), &[])?,
                    false => captured(&absolute(directory, &path))?,
                };
                to.names.push(OsStr::new("x").into());
                self.tree.make_ancestors(&to, 0o700)?;
            }
        }
        Ok(())
    }
}

/// The directory of a file.
fn directory_of(path: &[u8]) -> &[u8] {
    path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default()
}

/// What an include in a file of this directory names.
fn absolute(directory: &[u8], include: &str) -> Vec<u8> {
    let joined = match include.starts_with('/') {
        true => include.as_bytes().to_vec(),
        false => [directory, b"/", include.as_bytes()].concat(),
    };
    pg::path::canonical(&joined)
}

fn of_entry(entry: &FileEntry) -> ManifestFile {
    let path = match entry.class {
        EntryClass::Configuration => {
            captured(&pg::path::canonical(&entry.path)).map_or_else(|_| entry.path.to_vec(), |place| place.path())
        }
        _ => entry.path.to_vec(),
    };
    ManifestFile {
        path,
        size: entry.size,
        crc32c: entry.crc32c,
    }
}
