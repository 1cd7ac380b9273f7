//! Databases as a component, and what of a backup of them is loaded.

use components::dump::load::{Database, LoadOptions, Source, Target};
use components::dump::{self, Dump, Places, Selection, Trials, counts_of, dump_of, parse_counts};
use store::file_table::FileEntry;
use store::manifest::Manifest;

use crate::server::{Server, bin, user};
use crate::stage::Stage;

impl Stage {
    /// All databases, by the programs of the server's version.
    pub fn dump(&self, server: &Server) -> Dump {
        Dump {
            server: server.by_socket(),
            database: None,
            selection: Selection::default(),
            globals: true,
            role_passwords: true,
            counts_rows: true,
            jobs: 2,
            places: Places {
                directory: Some(bin(server.major)),
                path: Vec::new(),
            },
            trials: Some(Trials {
                programs: None,
                scratch: self.directory.path().to_owned(),
                user: user(),
            }),
            now_us: Stage::clock(),
        }
    }

    /// A file of a backup, and its bytes.
    pub async fn file(&self, manifest: &Manifest, path: &str) -> (FileEntry, Vec<u8>) {
        let mut stored = self.stored(manifest);
        while let Some(piece) = stored.next_piece().await.unwrap() {
            let Some(entry) = piece.into_iter().find(|entry| entry.path.as_slice() == path.as_bytes()) else {
                continue;
            };
            let mut bytes = Vec::new();
            let read = stored.in_order(&entry, async |part| {
                bytes.extend_from_slice(&part);
                Ok(())
            });
            read.await.unwrap();
            return (entry, bytes);
        }
        panic!("{path} is not in the backup");
    }

    /// The dump of a database, to be loaded from the repository.
    pub async fn database(&self, manifest: &Manifest, name: &str) -> Database {
        let (entry, _) = self.file(manifest, &dump_of(name)).await;
        let (_, counts) = self.file(manifest, &counts_of(name)).await;
        Database {
            source: Source::Stored(self.stored(manifest), Box::new(entry)),
            counts: parse_counts(name, &counts).unwrap(),
        }
    }

    pub async fn globals(&self, manifest: &Manifest) -> Source {
        let (entry, _) = self.file(manifest, dump::GLOBALS).await;
        Source::Stored(self.stored(manifest), Box::new(entry))
    }

    /// Where a server's programs load into it.
    pub async fn target(&self, server: &Server, database: &str) -> Target {
        let places = Places {
            directory: Some(bin(server.major)),
            path: Vec::new(),
        };
        Target {
            server: dump::Server {
                conninfo: format!("dbname={database}"),
                ..server.by_socket()
            },
            programs: places.for_major(server.major).await.unwrap(),
        }
    }

    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            scratch: self.directory.path().to_owned(),
            ..LoadOptions::default()
        }
    }
}
