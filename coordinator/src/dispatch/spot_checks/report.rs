//! What the spot checks of a job came to, for its report.

use latentfarm_common::ids::WorkerId;
use latentfarm_common::time::FrameRange;
use serde::{Deserialize, Serialize};

/// What the spot checks of a job came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpotCheckReport {
    /// The number of chunks of which another worker came to the same frames.
    pub agreed: u64,
    /// The number of chunks that were to be checked and could not be.
    pub not_compared: u64,
    /// The chunks of which workers came to different frames, in the order in which that was found.
    pub disagreements: Vec<Disagreement>,
}

/// A chunk of which workers of one numeric kind came to different frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    /// The output frames of the chunk.
    pub frames: FrameRange,
    /// The two or three workers that rendered it, the one whose result was checked first.
    pub workers: Vec<WorkerId>,
    /// The worker that came to other frames than two others, and was set aside; `None` if nobody can tell.
    pub odd: Option<WorkerId>,
}
