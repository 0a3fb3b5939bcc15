//! Captures the log of a test.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::{Arc, Mutex};

/// The lines of the log on this thread, and thus of the test's runtime, from `info` on.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Begins to capture, until the guard is dropped.
    pub(crate) fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("info,async_nats=error")
            .with_ansi(false)
            .without_time()
            .with_writer(move || lines.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    pub(crate) fn count(&self) -> usize {
        let text = self.0.lock().unwrap();
        text.split(|byte| *byte == b'\n').count() - 1
    }

    pub(crate) fn take(&self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
