//! What happened in a run: the log, what it covered, and the first violation of an invariant.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The lines of a log, shared with what the product writes to it.
type Lines = Arc<Mutex<Vec<String>>>;

/// What happened in a run.
#[derive(Debug)]
pub(super) struct Recorder {
    start: Instant,
    lines: Option<Lines>,
    covered: BTreeMap<String, u64>,
    violation: Option<String>,
}

impl Recorder {
    pub(super) fn new(is_logged: bool) -> Self {
        Self {
            start: Instant::now(),
            lines: is_logged.then(Lines::default),
            covered: BTreeMap::new(),
            violation: None,
        }
    }

    /// Adds a line to the log, if there is one.
    pub(super) fn log(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            push(lines, self.start, &line());
        }
    }

    /// Counts that something happened.
    pub(super) fn count(&mut self, name: &str) {
        self.log(|| format!("* {name}"));
        self.cover(name);
    }

    /// Counts that something happened, without a line in the log.
    pub(super) fn cover(&mut self, name: &str) {
        if let Some(count) = self.covered.get_mut(name) {
            *count += 1;
        } else {
            self.covered.insert(name.to_owned(), 1);
        }
    }

    /// Records that an invariant does not hold. The first one ends the run.
    pub(super) fn violation(&mut self, what: String) {
        self.log(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    pub(super) fn first_violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(super) fn covered(&self) -> &BTreeMap<String, u64> {
        &self.covered
    }

    pub(super) fn text(&self) -> String {
        let lines = self.lines.as_ref().map(|lines| lines.lock().unwrap().join("\n"));
        lines.unwrap_or_default()
    }

    /// Takes the log lines of the product too, as long as the guard lives.
    pub(super) fn subscribe(&self) -> Option<tracing::subscriber::DefaultGuard> {
        let lines = Arc::clone(self.lines.as_ref()?);
        let start = self.start;
        Some(tracing::subscriber::set_default(ProductLog { lines, start }))
    }
}

fn push(lines: &Lines, start: Instant, line: &str) {
    let at = start.elapsed().as_secs_f64();
    lines.lock().unwrap().push(format!("{at:9.3}  {line}"));
}

/// Takes the log lines of the product.
struct ProductLog {
    lines: Lines,
    start: Instant,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _written = if field.name() == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

impl Subscriber for ProductLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(format!("{:>5}:", event.metadata().level().as_str()));
        event.record(&mut text);
        push(&self.lines, self.start, &text.0);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}
