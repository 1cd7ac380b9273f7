//! How does the whole program compare with others that do the same work, on one real cluster, in one run?
//!
//! Two data sets, one after the other, each in a cluster of its own: full backups by every program in turn, and our stages alone on
//! the same relation files; restores of them; increments after real changes; WAL and recovery (`peers::backlog`); what a backup does
//! to a load. Medians of the rounds are shown, and drawn in `target/bench/peers.html`. Variables: `bench::peers::settings`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use bench::peers::board::Results;
use bench::peers::case::Case;
use bench::peers::database::{DataSet, Database};
use bench::peers::ours::knows_brake;
use bench::peers::page::{Setting, page};
use bench::peers::process::interrupt;
use bench::peers::settings::{JOBS, Settings};
use bench::peers::{left_out, machine};
use bench::summary;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let settings = Settings::find()?;
    // A signal must not leave a server behind: it ends the run as an error would.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.spawn(async {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        interrupt();
    });
    let (bytes, mix) = (settings.bytes / 1_000_000, settings.bytes_of(DataSet::Mix) / 1_000_000);
    let mut setting = Setting {
        machine: machine::describe(),
        date: String::new(),
        sizes: format!(
            "Real programs on one real cluster, in turns: {bytes} MB of pgbench, then {mix} MB of mix (UUIDs, JSON and words, about 3 : 1); \
             {JOBS} processes or threads each, repositories in directories on the cluster's own disk, medians of {} rounds.",
            settings.rounds
        ),
        versions: settings.versions.clone(),
        left_out: left_out::sentences(&settings),
    };
    println!("{}\n{}\n", setting.sizes, setting.versions.join(", "));
    let mut results = Results::default();
    for set in [DataSet::Pgbench, DataSet::Mix] {
        setting.date = one(&settings, set, &mut results)?;
        println!();
    }
    let (mut summary, board) = (results.summary, results.board);
    board.summarise(&mut summary);
    println!("{}", board.markdown());
    let directory = summary::directory()?;
    std::fs::write(directory.join("peers.md"), board.markdown())?;
    std::fs::write(directory.join("peers.html"), page(&board, &setting))?;
    println!("figures: {}", summary.write("peers")?.display());
    println!("the page: {}", directory.join("peers.html").display());
    Ok(())
}

/// Gives the date.
fn one(settings: &Settings, set: DataSet, results: &mut Results) -> io::Result<String> {
    eprintln!("making {}", set.name());
    let scratch = tempfile::Builder::new().prefix("seawall-peers").tempdir()?;
    let database = Database::create(&settings.server, scratch.path(), set, settings.bytes_of(set))?;
    // The server's user may not see the build directory.
    let agent = scratch.path().join("wal-agent");
    for name in ["wal-agent", "wal-restore"] {
        let copy = scratch.path().join(name);
        std::fs::copy(settings.agent.with_file_name(name), &copy)?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    }
    let has_brake = knows_brake(&database.server, &agent, &scratch.path().join("try"))?;
    if !has_brake {
        println!("this wal-agent does not know backup.brake: the load is measured without one");
    }
    let case = Case {
        settings,
        set,
        database: &database,
        agent,
        has_brake,
    };
    let chains = case.full(results)?;
    if settings.has("restores") {
        case.restores(results, &chains)?;
    }
    let chains = match settings.has("increments") {
        true => case.increments(results, chains)?,
        false => chains,
    };
    chains.remove()?;
    if settings.has("wal") && set == DataSet::Pgbench {
        case.wal(results)?;
    }
    if settings.has("load") {
        case.effects(&mut results.summary)?;
    }
    database.server.query("select to_char(now(), 'YYYY-MM-DD HH24:MI TZ')")
}
