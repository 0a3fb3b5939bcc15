//! How a command ends: its exit status, or an error that has one.

use std::process::ExitCode;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

use crate::render::RenderError;

/// How a command ended; each has its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ExitStatus {
    /// All that was asked for was done.
    Complete = 0,
    /// Something failed that is not the input's fault.
    Failed = 1,
    /// The usage was wrong or the input unusable; nothing was written.
    Refused = 2,
    /// The job can be tried again, but frames that should have been rendered were not.
    Incomplete = 3,
    /// A signal stopped it; the same command resumes.
    Interrupted = 130,
}

impl ExitStatus {
    pub(super) fn code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// An error with the exit status that it means.
#[derive(Debug)]
pub(super) struct CommandError {
    pub(super) status: ExitStatus,
    pub(super) source: anyhow::Error,
}

impl CommandError {
    /// The user can mend it: exit code 2.
    pub(super) fn refused(source: impl Into<anyhow::Error>) -> Self {
        Self {
            status: ExitStatus::Refused,
            source: source.into(),
        }
    }

    /// The farm or the machine is at fault: exit code 1.
    pub(super) fn failed(source: impl Into<anyhow::Error>) -> Self {
        Self {
            status: ExitStatus::Failed,
            source: source.into(),
        }
    }
}

/// Whatever is not said to be the user's to mend is a failure.
impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(error)
    }
}

impl From<RenderError> for CommandError {
    fn from(error: RenderError) -> Self {
        if error.is_refusal() {
            Self::refused(error)
        } else {
            Self::failed(error)
        }
    }
}

/// A runtime with so many threads for tasks.
pub(super) fn runtime(threads: usize) -> Result<Runtime, CommandError> {
    let built = Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build();
    Ok(built.context("cannot start the runtime")?)
}
