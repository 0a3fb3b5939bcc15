//! The exit statuses of the subcommands, and errors that carry one.

use std::process::ExitCode;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

use crate::farm::{ClientError, FarmRenderError, FetchError, RestoreError, SubmitError};
use crate::render::RenderError;

/// How a command ended. The numbers are the process's exit codes, which `latentfarm --help` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ExitStatus {
    /// The command did everything that it was given to do.
    Complete = 0,
    /// The machine or the farm failed; other inputs would not have helped.
    Failed = 1,
    /// The usage was wrong or the input unusable; nothing was written.
    Refused = 2,
    /// Some frames that should have been rendered were not; the same command tries them again.
    Incomplete = 3,
    /// A signal stopped the command; the same command resumes the job.
    Interrupted = 130,
}

impl ExitStatus {
    pub(super) fn code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// An error of a subcommand, with the exit status that the process ends with.
#[derive(Debug)]
pub(super) struct CommandError {
    pub(super) status: ExitStatus,
    pub(super) source: anyhow::Error,
}

impl CommandError {
    /// An error that the user can fix with other arguments or inputs: exit code 2.
    pub(super) fn refused(source: impl Into<anyhow::Error>) -> Self {
        Self {
            status: ExitStatus::Refused,
            source: source.into(),
        }
    }

    /// An error of the farm or the machine: exit code 1.
    pub(super) fn failed(source: impl Into<anyhow::Error>) -> Self {
        Self {
            status: ExitStatus::Failed,
            source: source.into(),
        }
    }
}

/// An error that is not explicitly refused is a failure, so that `?` is enough for it.
impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(error)
    }
}

/// Makes an error with an `is_refusal` one of a command.
macro_rules! refusal_or_failure {
    ($($error:ty),*) => {$(
        impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                if error.is_refusal() {
                    Self::refused(error)
                } else {
                    Self::failed(error)
                }
            }
        }
    )*};
}

refusal_or_failure!(
    ClientError,
    FarmRenderError,
    FetchError,
    RenderError,
    RestoreError,
    SubmitError
);

/// Returns why a command line is refused, in one line: the first paragraph of the message, without the usage.
pub(super) fn reason(refusal: &clap::Error) -> String {
    let text = refusal.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect();
    words.join(" ")
}

/// Builds a tokio runtime with this number of threads for tasks.
pub(super) fn runtime(threads: usize) -> Result<Runtime, CommandError> {
    let built = Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    Ok(built.context("cannot start the runtime")?)
}
