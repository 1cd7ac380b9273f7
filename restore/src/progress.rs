//! Progress: a bar on a terminal, a line now and then elsewhere, nothing with `--json`.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::plan::bytes_text;

/// Lines are at least this far apart.
const LINE_SECONDS: u64 = 10;

/// Shows how far a long command is.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    Silent,
    Bar(ProgressBar),
    Lines {
        word: &'static str,
        total: u64,
        done: AtomicU64,
        begun: Instant,
        last: AtomicU64,
    },
}

impl Progress {
    /// For `total` bytes that are restored.
    pub(crate) fn new(total: u64, silent: bool) -> Self {
        Progress::of("restoring", "restored", total, silent)
    }

    /// For `total` bytes of what is said in two words, while it goes on and of what is done.
    pub(crate) fn of(doing: &str, done_word: &'static str, total: u64, silent: bool) -> Self {
        let kind = if silent {
            Kind::Silent
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total);
            if let Ok(style) = ProgressStyle::with_template(&format!(
                "{doing}  {{wide_bar}} {{binary_bytes}}/{{binary_total_bytes}} {{binary_bytes_per_sec}} {{eta}}"
            )) {
                bar.set_style(style);
            }
            Kind::Bar(bar)
        } else {
            Kind::Lines {
                word: done_word,
                total,
                done: AtomicU64::new(0),
                begun: Instant::now(),
                last: AtomicU64::new(0),
            }
        };
        Progress(Arc::new(kind))
    }

    /// So many bytes more.
    pub(crate) fn add(&self, bytes: u64) {
        match &*self.0 {
            Kind::Silent => {}
            Kind::Bar(bar) => bar.inc(bytes),
            Kind::Lines {
                word,
                total,
                done,
                begun,
                last,
            } => {
                let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                let now = begun.elapsed().as_secs();
                let before = last.load(Ordering::Relaxed);
                if now >= before + LINE_SECONDS
                    && last
                        .compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed)
                        .is_ok()
                {
                    eprintln!("{word} {} of {}", bytes_text(done), bytes_text(*total));
                }
            }
        }
    }

    /// Done.
    pub(crate) fn finish(&self) {
        if let Kind::Bar(bar) = &*self.0 {
            bar.finish_and_clear();
        }
    }
}
