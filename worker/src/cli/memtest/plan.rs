//! What one run of the checks is about.

use std::path::PathBuf;
use std::time::Duration;

use latentsync::Checkpoint;

/// What to test.
pub(super) struct Plan {
    pub(super) checkpoint: Checkpoint,
    pub(super) weights: PathBuf,
    /// Text form.
    pub(super) device: String,
    /// Of the search for leaks.
    pub(super) windows: u32,
    pub(super) steps: u32,
    pub(super) threads: usize,
    pub(super) engine: PathBuf,
    pub(super) engine_args: Vec<String>,
    /// Longest that an engine may say nothing in the middle of a request.
    pub(super) silence_limit: Duration,
}
