//! The error with which the worker's loop fails to start.

/// Why the loop could not start. Once it runs, it logs errors of the connection and retries.
#[derive(Debug, thiserror::Error)]
#[error("cannot subscribe to `{subject}`")]
pub struct ServeError {
    pub(super) subject: String,
    pub(super) source: async_nats::SubscribeError,
}
