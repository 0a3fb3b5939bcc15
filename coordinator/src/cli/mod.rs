//! The command line of `latentfarm`.

mod args;
mod bench;
mod doctor;
mod events;
mod explain;
mod farm;
mod finish;
mod memory;
mod nats_config;
mod preflight;
mod progress;
mod render;
mod report;
mod settings;
mod top;
mod watch;

use std::process::ExitCode;

use latentfarm_common::error::Chain;
use latentfarm_common::telemetry::{self, LogFormat};

pub use args::Args;

/// How a command ended; each has its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All that was asked for.
    Complete,
    /// Something failed that is not the input's fault.
    Failed,
    /// Wrong usage or unusable input; nothing was written.
    Refused,
    /// An output exists or the job can be retried, but frames that should have been rendered were not.
    Incomplete,
    /// Stopped by a signal; the same command resumes.
    Interrupted,
}

impl Ending {
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Complete => 0,
            Self::Failed => 1,
            Self::Refused => 2,
            Self::Incomplete => 3,
            Self::Interrupted => 130,
        })
    }
}

/// An error with the ending that it means.
#[derive(Debug)]
pub struct CommandError {
    ending: Ending,
    source: anyhow::Error,
}

impl CommandError {
    /// The user can mend it: exit code 2.
    pub(crate) fn refused(source: impl Into<anyhow::Error>) -> Self {
        Self {
            ending: Ending::Refused,
            source: source.into(),
        }
    }

    /// The farm or the machine is at fault: exit code 1.
    pub(crate) fn failed(source: impl Into<anyhow::Error>) -> Self {
        Self {
            ending: Ending::Failed,
            source: source.into(),
        }
    }
}

/// Runs a command line; prints its error, if any, once and whole.
pub fn main(args: Args) -> ExitCode {
    // The operator reads the command's own lines; the log is for what is wrong underneath.
    if let Err(error) = telemetry::init(LogFormat::Human, "error") {
        eprintln!("error: {}", Chain(&error));
        return Ending::Refused.exit_code();
    }
    let outcome = match args.command {
        args::Command::Render(args) => render::main(*args),
        args::Command::Explain(args) => explain::main(&args),
        args::Command::Doctor(args) => Ok(doctor::main(&args)),
        args::Command::Bench(args) => bench::main(args),
        args::Command::Top(args) => top::main(&args),
        args::Command::NatsConfig(args) => nats_config::main(&args),
    };
    let ending = outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", Chain(error.source.as_ref()));
        error.ending
    });
    ending.exit_code()
}
