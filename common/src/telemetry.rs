//! Logging to stderr, filtered by `LATENTFARM_LOG`. Every program sets it up first.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

/// Environment variable with the filter, in `tracing_subscriber`'s syntax: `debug`, `info,async_nats=debug`.
pub const FILTER_VARIABLE: &str = "LATENTFARM_LOG";
/// This is added to the default level. The NATS client library logs every reconnect, and so do we; why it cannot connect
/// is in our own errors.
const QUIET_LIBRARIES: &str = "async_nats=error,async_nats::connector=off";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The environment variable holds no filter.
    #[error("cannot read {FILTER_VARIABLE}=`{text}`")]
    Filter {
        /// The content of the environment variable.
        text: String,
        /// The error that the parser returned.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("cannot start logging")]
    Start(#[source] TryInitError),
}

/// Sends all logs to stderr from now on. `default_level` (`info`, `warn`, ...) applies if `LATENTFARM_LOG` is
/// not set.
pub fn init(default_level: &str) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt as _;

    tracing_subscriber::fmt()
        .with_env_filter(filter(std::env::var(FILTER_VARIABLE).ok(), default_level)?)
        .with_writer(std::io::stderr)
        // A line that cannot be written is lost. The library would report that on standard error, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .finish()
        .try_init()
        .map_err(TelemetryError::Start)
}

fn filter(variable: Option<String>, default_level: &str) -> Result<EnvFilter, TelemetryError> {
    let text = variable.unwrap_or_else(|| format!("{default_level},{QUIET_LIBRARIES}"));
    EnvFilter::try_new(&text).map_err(|source| TelemetryError::Filter { text, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_filter_is_named() {
        let error = filter(Some("info,=nonsense=".to_owned()), "info").unwrap_err();
        assert!(error.to_string().contains("info,=nonsense="), "{error}");
    }

    #[test]
    fn without_the_variable_the_default_level_holds() {
        let text = filter(None, "warn").unwrap().to_string();
        assert!(
            text.contains("warn") && text.contains("async_nats=error"),
            "{text}"
        );
    }
}
