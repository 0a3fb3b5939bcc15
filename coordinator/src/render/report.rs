//! What a render came to.

use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::wire::job::JobSpec;

use crate::dispatch::{Ending, JobReport};

/// How a render ended, with its figures.
#[derive(Clone, Debug)]
pub struct RenderReport {
    pub ending: Ending,
    pub spec: JobSpec,
    pub job: JobReport,
    /// The output; `None` if none was written.
    pub written: Option<Written>,
    pub elapsed: Duration,
    /// Chunks that an earlier run had finished.
    pub resumed_chunks: usize,
}

/// The file that was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub path: PathBuf,
    /// SHA-256 over the hashes of all composited frames in order.
    pub frames_digest: String,
    /// What was done with the sound, as a phrase for people.
    pub sound: String,
}
