//! The result of a render.

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
    /// The output file, or `None` if none was written.
    pub written: Option<Written>,
    pub elapsed: Duration,
    /// Number of chunks that an earlier run had finished.
    pub resumed_chunks: usize,
}

/// The file that was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub path: PathBuf,
    /// SHA-256 over the hashes of all rendered frames, in order.
    pub frames_digest: String,
    /// How the sound was treated, as a phrase for people.
    pub sound: String,
}
