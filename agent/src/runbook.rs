//! `wal-agent runbook`: what to do in each kind of disaster, as Markdown, with the commands of this configuration ready to be pasted.
//!
//! Made in quiet times and kept on paper or in a wiki; made at three in the morning it must work too, so everything comes from the
//! configuration, and server and repository only add to it. Nothing secret is in it. The end-to-end test
//! `runbook` pastes what it prints after five kinds of disaster, and sees that every other command parses.

mod known;
mod overview;
mod page;
mod scenarios;
mod shell;

use crate::cli::{Global, RunbookOptions};
use crate::exit::{FAILURE, Failure};
use crate::open::Context;
use known::Known;

pub use scenarios::NAMES;

/// Runs the command.
///
/// # Errors
/// The configuration cannot be used, or the file cannot be written. That server or repository are away is none.
pub async fn run(global: &Global, options: &RunbookOptions) -> anyhow::Result<()> {
    let (contexts, unread) = Context::load_each(global)?;
    let mut text = String::new();
    for context in &contexts {
        let mut known = Known::look(context).await;
        if let Some(error) = &unread {
            let first = error.lines().next().unwrap_or_default();
            known
                .missing
                .push(format!("secrets that the configuration names: {first}"));
        }
        text.push_str(&of_cluster(&known, options.scenario.as_deref()));
    }
    let Some(path) = &options.output else {
        print!("{text}");
        return Ok(());
    };
    std::fs::write(path, text).map_err(|error| {
        Failure {
            code: FAILURE,
            message: format!("cannot write \"{}\": {error}", path.display()),
            hint: None,
        }
        .into()
    })
}

/// The page of one cluster, or one scenario of it.
fn of_cluster(known: &Known<'_>, scenario: Option<&str>) -> String {
    let mut text = overview::head(known);
    if scenario.is_none() {
        text.push_str(&overview::first(known));
    }
    let wanted = |name: &str| scenario.is_none_or(|scenario| scenario == name);
    for scenario in scenarios::all(known).iter().filter(|scenario| wanted(scenario.name)) {
        text.push_str(&scenario.markdown());
    }
    text
}

#[cfg(test)]
mod tests;
