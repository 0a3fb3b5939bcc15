//! What the pictures of a render chunk are compared with.

use latentfarm_common::wire::job::{EncoderSpec, SourceSpec};
use latentfarm_common::wire::task::RenderInput;
use serde::{Deserialize, Serialize};

/// What the pictures of a render chunk are compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpectedPictures {
    /// The source video of the job.
    pub source: SourceSpec,
    /// How the segment was encoded.
    pub encoder: EncoderSpec,
    /// Side of the face crop in pixels.
    pub resolution_px: u32,
    /// What the worker was given to render.
    pub input: RenderInput,
    /// How loud the speech is in each frame of the chunk, of 255; see
    /// [`Timeline::loudness`](latentfarm_common::wire::job::Timeline::loudness).
    pub loudness: Vec<u8>,
}
