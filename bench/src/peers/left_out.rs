//! What was not measured, and what must be known of what was: said on the page, because a table would hide it.

use crate::peers::settings::Settings;
use crate::peers::walg::Flavour;

/// All of it, for one run.
#[must_use]
pub fn sentences(settings: &Settings) -> Vec<String> {
    let mut all: Vec<String> = [
        "Seawall encrypts and signs everything and decodes what it has encoded before it is stored; the others were run without encryption, \
         as people run them. That is in its time and its CPU.",
        "Repositories are directories on the disk of the cluster. \"Written\" counts files; on an object store each is a PUT at least. \
         No object store was asked: its own time would be most of the figure.",
        "Barman takes backups by pg_basebackup (compressed by the server, zstd 3), as it does without ssh; its increments need \
         PostgreSQL 17, and a delta restore of it needs a backup that is not compressed. Its archive_command is its put-wal through a \
         pipe, without the ssh that goes between two hosts. Its restore fetches all WAL at once, which is its default.",
        "pg_basebackup has no delta restore, and its increments came with PostgreSQL 17. Its recovery copies files of pg_receivewal.",
        "CPU is of the program and of the server's processes that worked for it. Memory is of all its processes together, and counts what \
         they share in each; that of the server is not in it. Seawall's backup and its agent are two programs: the agent that runs beside \
         a backup is in the detailed figures.",
        "What stands as \"cp, durable\" stores no backup; it is what the disk and the system can do.",
        "What a backup does to a load on the database takes longer than all of this: make bench ARGS=\"--bench peers\".",
    ]
    .map(str::to_owned)
    .to_vec();
    for (flavour, name) in [(Flavour::WalG, "WALG"), (Flavour::WalRus, "WAL_RUS")] {
        if !settings.walg.iter().any(|(one, _)| *one == flavour) {
            all.push(format!(
                "{} was not measured: no program was given (make bench-peers {name}=/path/to/it).",
                flavour.name()
            ));
        }
    }
    for (part, what) in [
        ("restores", "Restores"),
        ("increments", "Increments"),
        ("wal", "WAL and recovery"),
    ] {
        if !settings.has(part) {
            all.push(format!("{what} were left out of this run by SEAWALL_BENCH_PARTS."));
        }
    }
    all
}
