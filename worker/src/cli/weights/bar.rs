//! Progress bars of long `weights` commands; without a terminal on standard error they print nothing.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// Makes a bar that counts to `bytes` and vanishes when it is dropped.
pub(super) fn bar(what: &str, bytes: u64) -> ProgressBar {
    let template =
        "{msg:>30} [{bar:30}] {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    styled(ProgressBar::new(bytes), style, what)
}

/// Makes a counter like [`bar`] for a number of bytes that is not known beforehand.
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
