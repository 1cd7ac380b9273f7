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
    let style = ProgressStyle::with_template(
        "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left {msg}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (counters, shown) = (Arc::clone(progress), bar.clone());
    let follow = tokio::spawn(async move {
        loop {
            let now = counters.now();
            shown.set_length(now.bytes_total.max(now.bytes_read));
            shown.set_position(now.bytes_read);
            // A server that sends its files does not say how many there are.
            let of_all = match now.files_total {
                0 => String::new(),
                all => format!("/{all}"),
            };
            let new = now.bytes_new * 100 / now.bytes_read.max(1);
            shown.set_message(format!("{}{of_all} files {new} % new", now.files_done));
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
