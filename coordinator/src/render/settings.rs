//! What one render is to do. `cli::settings` makes it from validated arguments.

use std::path::PathBuf;
use std::time::Duration;

use crate::dispatch::CpuFallback;
use crate::ingest::IngestRequest;
use crate::plan::split::ChunkFrames;
use crate::stitch::OutputTarget;

/// Everything that one render is asked for, but for the farm that it runs on.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct RenderSettings {
    /// The two input files, and how they are laid over each other in time.
    pub ingest: IngestRequest,
    pub target: OutputTarget,
    /// Folder with the model weights.
    pub weights: PathBuf,
    /// Denoising steps, 1..=1000.
    pub steps: u32,
    pub guidance_scale: f32,
    /// Keys every noise draw.
    pub seed: u64,
    /// libx264 constant rate factor 0..=51, or `None` for lossless.
    pub crf: Option<u8>,
    pub x264_preset: String,
    /// The sound is transcoded so that it ends with the picture, instead of being copied.
    pub exact_audio: bool,
    /// The untouched picture is written if no frame of the video has a face.
    pub allow_no_face: bool,
    pub cpu_fallback: CpuFallback,
    /// How long a chunk that fits no live worker waits for a bigger one.
    pub unplaceable_wait: Duration,
    /// Output frames of one render chunk.
    pub chunk_frames: ChunkFrames,
    /// Source frames of one analysis chunk.
    pub analyze_frames: ChunkFrames,
    /// Worker threads that the estimate counts on, over all workers.
    pub threads: usize,
    /// Job folder.
    pub work_dir: PathBuf,
    /// Another unfinished job in the job folder is discarded.
    pub discard_other: bool,
    /// The job folder stays when the job is complete.
    pub keep: bool,
}
