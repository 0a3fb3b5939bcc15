//! Logging set-up: lines on stderr, filtered by `LATENTFARM_LOG`, for people or as JSON.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::TryInitError;

/// Environment variable with the filter, in `tracing_subscriber`'s syntax: `debug`, `info,async_nats=debug`.
pub const FILTER_VARIABLE: &str = "LATENTFARM_LOG";
/// Used where the variable is not set. The client library tells of every reconnect by itself; so do we.
const QUIET_LIBRARIES: &str = "async_nats=error";

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, target, message, fields.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = InvalidLogFormat;

    fn from_str(text: &str) -> Result<Self, InvalidLogFormat> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(InvalidLogFormat(text.to_owned())),
        }
    }
}

/// Text that is no log format.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a log format: `human` or `json`")]
pub struct InvalidLogFormat(String);

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("cannot read {FILTER_VARIABLE}=`{text}`")]
    Filter {
        text: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("cannot start logging")]
    Start(#[source] TryInitError),
}

/// Sends logs to stderr. `default_level` (`info`, `warn`, ...) holds where `LATENTFARM_LOG` is not set.
pub fn init(format: LogFormat, default_level: &str) -> Result<(), TelemetryError> {
    let colours = std::io::stderr().is_terminal();
    init_with(format, default_level, colours, std::io::stderr)
}

/// As [`init`], with a writer of one's own: progress bars must be lifted before a line is written.
pub fn init_with<W>(
    format: LogFormat,
    default_level: &str,
    colours: bool,
    writer: W,
) -> Result<(), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    use tracing_subscriber::util::SubscriberInitExt as _;

    let filter = filter(std::env::var(FILTER_VARIABLE).ok(), default_level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match format {
        LogFormat::Human => builder.with_ansi(colours).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    }
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
