//! A progress bar on the terminal while a backup copies.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use store::pipeline::Progress;

const REDRAW: Duration = Duration::from_millis(200);

/// A bar that follows the counters until it is finished or dropped.
pub(crate) struct Bar {
    bar: ProgressBar,
    follow: Option<tokio::task::JoinHandle<()>>,
}

/// Shows the counters on standard error (nothing when it is no terminal, or when `quiet`). Inside a tokio runtime.
pub(crate) fn show_progress(progress: &Arc<Progress>, quiet: bool) -> Bar {
    if quiet {
        return Bar {
            bar: ProgressBar::hidden(),
            follow: None,
        };
    }
    let bar = ProgressBar::new(0);
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (counters, shown) = (Arc::clone(progress), bar.clone());
    let follow = tokio::spawn(async move {
        loop {
            let now = counters.now();
            shown.set_length(now.bytes_total.max(now.bytes_read));
            shown.set_position(now.bytes_read);
            shown.set_message(format!(
                "{}/{} files, {} % new, {} MB stored",
                now.files_done,
                now.files_total,
                now.bytes_new * 100 / now.bytes_read.max(1),
                now.bytes_stored / 1_000_000
            ));
            tokio::time::sleep(REDRAW).await;
        }
    });
    Bar {
        bar,
        follow: Some(follow),
    }
}

impl Bar {
    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(follow) = &self.follow {
            follow.abort();
        }
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}
