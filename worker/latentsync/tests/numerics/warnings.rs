//! Captures the warnings that are logged.

/// Returns the result of `run`, and the warnings that it logged as text.
pub(crate) fn warnings_of<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    let log = Log::default();
    let lines = log.lines.clone();
    let result = tracing::subscriber::with_default(log, run);
    let lines = lines.lock().unwrap().clone();
    (result, lines)
}

#[derive(Default)]
struct Log {
    lines: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write as _;
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
