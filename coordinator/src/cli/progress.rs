//! What the operator sees while a job runs: a bar and readable lines on standard error, or JSON lines on
//! standard output.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::Value;

/// Without a terminal, progress is told in lines, one for each part of so many.
const PARTS: u64 = 10;
/// A phase is told of once it has taken this long.
const QUIET_START: Duration = Duration::from_secs(2);

/// The operator's view of one command.
#[derive(Debug)]
pub(super) struct Ui {
    json: bool,
    bar: ProgressBar,
    is_terminal: bool,
    told_parts: u64,
    /// Name and unit of the phase, such as `render` and `frames`.
    phase: (String, String),
}

impl Ui {
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stderr().is_terminal() && !json;
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        Self {
            json,
            bar,
            is_terminal,
            told_parts: 0,
            phase: (String::new(), String::new()),
        }
    }

    /// Begins a phase of `total` units, such as `frames`.
    pub(super) fn begin(&mut self, what: &str, total: u64, unit: &str) {
        self.bar.finish_and_clear();
        self.told_parts = 0;
        self.phase = (what.to_owned(), unit.to_owned());
        let target = if self.is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let template =
            format!("{what:>9} [{{bar:30}}] {{pos}}/{{len}} {unit}, {{rate}}, {{eta}} left, {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::with_draw_target(Some(total), target);
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _full = write!(out, "{:.1}/s", state.per_sec());
        };
        self.bar
            .set_style(style.with_key("rate", rate).progress_chars("=> "));
        if self.is_terminal {
            self.bar.enable_steady_tick(Duration::from_millis(250));
        }
    }

    /// Sets how far the phase is, with a short text such as the number of workers.
    pub(super) fn advance(&mut self, done: u64, text: &str) {
        self.bar.set_position(done);
        self.bar.set_message(text.to_owned());
        let total = self.bar.length().unwrap_or(0);
        if self.is_terminal || self.json || total == 0 {
            return;
        }
        let parts = done * PARTS / total;
        // A phase that is over in a moment needs no lines.
        if parts > self.told_parts && self.bar.elapsed() >= QUIET_START {
            self.told_parts = parts;
            let (what, unit) = &self.phase;
            let (rate, left) = (self.bar.per_sec(), HumanDuration(self.bar.eta()));
            self.line(&format!(
                "{what}: {done}/{total} {unit}, {rate:.1}/s, {left} left, {text}"
            ));
        }
    }

    pub(super) fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    /// One readable line for one event.
    pub(super) fn line(&self, text: &str) {
        if !self.json {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }

    /// The same event for machines: an object with an `event` field.
    pub(super) fn event(&self, event: &Value) {
        if self.json {
            // Nobody reading any more is no reason to end the job.
            let _closed = writeln!(io::stdout(), "{event}");
        }
    }

    /// Text that is the command's result, on standard output; in JSON mode the events hold it.
    pub(super) fn result(&self, text: &str) {
        if !self.json {
            let _closed = writeln!(io::stdout(), "{text}");
        }
    }

    /// Text that the operator must read in either mode, on standard error.
    pub(super) fn warn(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}
