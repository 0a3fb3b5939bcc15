//! The error of what is done with the farm's streams.

use super::schema::OtherSchema;

/// An operation on the farm's streams, consumers or messages failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct StreamError {
    action: String,
    source: async_nats::Error,
}

impl StreamError {
    /// Names the operation that failed, as in "cannot `action`", and its cause.
    pub(crate) fn new(action: String, cause: impl Into<async_nats::Error>) -> Self {
        let source = cause.into();
        Self { action, source }
    }

    /// Returns what was found if the operation failed because another release has written the streams.
    pub fn other_schema(&self) -> Option<&OtherSchema> {
        self.source.downcast_ref()
    }
}
