//! Why a worker cannot take tasks.

/// Why the loop could not start. Once it runs it overcomes errors of the link and says so in the log.
#[derive(Debug, thiserror::Error)]
#[error("cannot subscribe to `{subject}`")]
pub struct ServeError {
    pub(super) subject: String,
    pub(super) source: async_nats::SubscribeError,
}
