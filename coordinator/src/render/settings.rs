//! The settings of one render. `cli::settings` makes them from validated arguments.

use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::tags::Tags;

use super::weights::WeightsInfo;
use crate::dispatch::{CpuFallback, OneKind};
use crate::ingest::IngestRequest;
use crate::plan::split::ChunkFrames;
use crate::stitch::OutputTarget;

/// The folder of a render on a private farm.
#[derive(Clone, Debug)]
pub struct WorkFolder {
    /// The job folder, which is created if it does not exist.
    pub path: PathBuf,
    /// Whether another unfinished job in the job folder is discarded.
    pub discard_other: bool,
    /// Whether the job folder is kept when the job is complete.
    pub keep: bool,
}

/// The number of denoising steps, 1 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepsChoice {
    /// The user asked for this number.
    Exactly(u32),
    /// The number that the weights were trained for, or else this one.
    OfWeightsOr(u32),
}

impl StepsChoice {
    /// Returns the number for these weights.
    pub fn of(self, weights: &WeightsInfo) -> u32 {
        match self {
            Self::Exactly(steps) => steps,
            Self::OfWeightsOr(steps) => weights.steps.unwrap_or(steps),
        }
    }
}

/// The settings of one render, without the farm that it runs on.
#[derive(Clone, Debug)]
pub struct RenderSettings {
    /// The two input files, and how they are laid over each other in time.
    pub ingest: IngestRequest,
    pub target: OutputTarget,
    /// Folder with the model weights.
    pub weights: PathBuf,
    pub steps: StepsChoice,
    pub guidance_scale: f32,
    /// The seed that all noise is derived from.
    pub seed: u64,
    /// libx264 constant rate factor 0..=51, or `None` for lossless.
    pub crf: Option<u8>,
    pub x264_preset: String,
    /// Whether the unchanged video is written if no frame has a face.
    pub allow_no_face: bool,
    pub cpu_fallback: CpuFallback,
    /// What is rendered by machines of one numeric kind only; `None` if the kinds may mix.
    pub one_kind: Option<OneKind>,
    /// The tags that a worker must have to be given any task of the job.
    pub needed_tags: Tags,
    /// How long a chunk that fits no live worker waits for one with more memory.
    pub unplaceable_wait: Duration,
    /// Output frames of one render chunk.
    pub chunk_frames: ChunkFrames,
    /// Source frames of one analysis chunk.
    pub analyze_frames: ChunkFrames,
    /// Number of engine threads over all workers, for the estimate.
    pub threads: usize,
    /// The job folder; `None` for a job of an existing farm, which has none.
    pub work: Option<WorkFolder>,
}
