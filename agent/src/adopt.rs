//! `wal-agent adopt`: makes a restored or an upgraded server production again.
//!
//! look → plan → ask → slots → settings → lineage → stream, and a backup beside it → report. Nothing is changed before the plan is agreed
//! to. A crash leaves slots that hold WAL back, and perhaps a lineage without a backup: run it again, or `wal-agent run`, which ends the
//! same way. Whether the server's history is the archived one is decided by the same code as in `run`.

mod course;
mod disarmed;
mod look;
mod predecessor;
mod protect;
mod report;

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use anyhow::Context as _;
use config::OnUnknownHistory;
use course::Course;
use look::Look;
use pg::lsn::Lsn;
use report::Report;
use store::keys::SigningKey;
use store::records::Lineage;
use store::repository::Writer;

use crate::cli::AdoptOptions;
use crate::exit::Failure;
use crate::open::Context;
use crate::run::{Running, lineages, state};
use crate::{backup, init, output, sql};

/// Runs the command.
pub async fn run(mut context: Context, options: &AdoptOptions) -> anyhow::Result<()> {
    may_be_asked(options)?;
    // What a daemon must not decide for the operator, the operator decides here.
    context.cluster.wal.on_unknown_history = OnUnknownHistory::NewLineage;
    // The backup is taken here, once.
    context.cluster.backup.after_loss = false;
    let alone = state::alone(&context);
    let look = look::look(&context, alone.is_err()).await?;
    let mut report = Report::planned(&context, &look, options);
    let alive = match options.old_is_gone {
        true => Ok(()),
        false => look.predecessor.refuse_alive(&context, output::now_us()),
    };
    if options.dry_run {
        report.print(options.json)?;
        return alive;
    }
    alive?;
    if agree(&report, options)? && !options.old_is_gone {
        // Thinking takes time, and the old server may have come back.
        look.look_again(&context)
            .await?
            .refuse_alive(&context, output::now_us())?;
    }
    init::create_slots(&context, &look.connect).await?;
    let client = sql::connect(&look.connect).await?;
    let reset = disarmed::reset(&client, &look.settings.reset).await?;
    drop(client);
    report.settings_are_reset(reset);
    let lineage = lineage_of(&context, &look).await?;
    let context = Arc::new(context);
    let protected = match &look.course {
        Course::Streamed { lineage } => protect::beside_an_agent(&context, lineage, options).await?,
        _ => {
            let _alone = alone?;
            let running = Running::prepare(Arc::clone(&context), Some(lineage)).await?;
            if let Course::Other { reason, .. } = &look.course {
                running.note_new_lineage(reason);
            }
            protect::by_ourselves(context, running, options).await?
        }
    };
    report.is_protected(protected);
    report.print(options.json)
}

/// Before anything is looked at: a plan that nobody can agree to is no use.
fn may_be_asked(options: &AdoptOptions) -> anyhow::Result<()> {
    if options.yes || options.dry_run || (std::io::stdin().is_terminal() && !options.json) {
        return Ok(());
    }
    Err(Failure::refused(
        "nobody can agree to the plan: this is not a terminal, or --json was asked for",
        "Look at it with --dry-run; then say --yes.",
    )
    .into())
}

/// True when somebody was asked.
fn agree(report: &Report, options: &AdoptOptions) -> anyhow::Result<bool> {
    if options.json {
        return Ok(false);
    }
    println!("{}", report.plan());
    if options.yes {
        return Ok(false);
    }
    print!("Type \"yes\" to go on: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        return Ok(true);
    }
    Err(Failure::refused(
        "nothing was changed: the plan was not agreed to",
        "Run it again when it is.",
    )
    .into())
}

/// The lineage to begin with: of another cluster a new one, which no daemon would begin by itself.
async fn lineage_of(context: &Context, look: &Look) -> anyhow::Result<Lineage> {
    let Course::Other { from, reason } = &look.course else {
        return Ok(look.course.known().clone());
    };
    let keys = context.host_keys()?;
    let signing = Arc::new(SigningKey::from_seed(keys.signing.seed().clone())?);
    let writer = Writer::new(Arc::clone(&look.repository), signing, 0);
    let archived = look
        .repository
        .coverage(from.id)
        .await?
        .newest_end()
        .unwrap_or(Lsn::ZERO);
    let system = look.server.identity.system_identifier.as_u64();
    let begun = lineages::begin(&look.connect, system, &writer, from, reason, archived);
    let lineage = begun.await.context("cannot begin a new lineage")?;
    tracing::info!(lineage = %lineage.id, parent = %from.id, %reason, "a new lineage begins; the old one is kept");
    Ok(lineage)
}

/// Shows how far the backup is, on a terminal.
fn progress(options: &AdoptOptions) -> (Arc<backup::Progress>, backup::Bar) {
    let progress = Arc::new(backup::Progress::default());
    let bar = backup::show_progress(&progress, options.json);
    (progress, bar)
}
