//! How far a long command is, on a terminal; nothing where standard error is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// Goes away when it is dropped.
#[derive(Clone)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Counts to `bytes`.
    pub(super) fn new(what: &str, bytes: u64) -> Self {
        let template =
            "{msg:>30} [{bar:30}] {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        Self(
            ProgressBar::new(bytes)
                .with_style(style)
                .with_message(what.to_owned()),
        )
    }

    /// Counts bytes without an end.
    pub(super) fn spinner(what: &str) -> Self {
        let style = ProgressStyle::with_template("{msg} {binary_bytes}, {binary_bytes_per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        Self(
            ProgressBar::no_length()
                .with_style(style)
                .with_message(what.to_owned()),
        )
    }

    pub(super) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    pub(super) fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
