//! How far a long command is, on a terminal; nothing if standard error is no terminal.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// A bar that counts to `bytes` and goes away when it is dropped.
pub(super) fn bar(what: &str, bytes: u64) -> ProgressBar {
    let template =
        "{msg:>30} [{bar:30}] {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    styled(ProgressBar::new(bytes), style, what)
}

/// As [`bar`], for bytes without a known end.
pub(super) fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {binary_bytes}, {binary_bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    styled(ProgressBar::no_length(), style, what)
}

fn styled(bar: ProgressBar, style: ProgressStyle, what: &str) -> ProgressBar {
    bar.with_style(style)
        .with_message(what.to_owned())
        .with_finish(ProgressFinish::AndClear)
}
