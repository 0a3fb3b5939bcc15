//! Why a worker cannot take tasks.

/// Why the loop could not start. Once it runs it overcomes errors of the link and says so in the log.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot subscribe to `{subject}`")]
    Subscribe {
        subject: String,
        #[source]
        source: async_nats::SubscribeError,
    },
    #[error("cannot use these waits of an unfit worker")]
    Waits(#[source] latentfarm_common::backoff::InvalidBackoff),
}
