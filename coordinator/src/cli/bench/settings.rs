//! What a bench measures, and the bounds of its options.

use std::path::PathBuf;

use crate::cli::args::BenchArgs;

const MAX_SECONDS: u32 = 600;
const MAX_CHUNKS: u32 = 10_000;

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) video: Option<PathBuf>,
    /// Seconds of video at most.
    pub(super) seconds: u32,
    /// Chunks that go through the queue.
    pub(super) chunks: u32,
    /// Folder for everything that is written; gone afterwards.
    pub(super) folder: PathBuf,
}

/// A value that is out of its bounds.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsError {
    #[error("--seconds {0} is out of 1 to {MAX_SECONDS}")]
    Seconds(u32),
    #[error("--chunks {0} is out of 2 to {MAX_CHUNKS}")]
    Chunks(u32),
}

pub(super) fn check_bounds(args: &BenchArgs) -> Result<(), SettingsError> {
    if !(1..=MAX_SECONDS).contains(&args.seconds) {
        return Err(SettingsError::Seconds(args.seconds));
    }
    if !(2..=MAX_CHUNKS).contains(&args.chunks) {
        return Err(SettingsError::Chunks(args.chunks));
    }
    Ok(())
}
