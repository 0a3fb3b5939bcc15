//! Looks at what workers send: whether the segment of a render chunk can be decoded, and whether its pictures can have
//! come from the source video.
//!
//! Both happen in child processes of this same program (`latentfarm check-segments`), because the bytes come from
//! other machines: a file on which a decoder crashes or hangs ends such a child, and the coordinator goes on.
//!
//! ```text
//! dispatcher ─▶ SegmentProcesses ─ CheckRequest ─▶ child: serve ─▶ decode, figures, judge
//!                                ◀─ CheckReply ──
//! ```
//! A picture is measured against the source picture that it shows (`figures.rs`), and the figures of a whole segment are
//! compared with limits (`judge.rs`). The limits are far from what the demo weights give, so that only a result
//! that is plainly wrong exceeds them.

mod figures;
mod judge;
mod messages;
mod process;
mod serve;

use std::path::PathBuf;

use latentfarm_common::wire::job::{EncoderSpec, SourceSpec};
use latentfarm_common::wire::media::LocalSlice;
use latentfarm_common::wire::task::RenderInput;

use self::messages::LocalPictures;
pub(crate) use self::process::{Looked, SegmentProcesses};
pub use self::serve::serve;

/// What the pictures of a render chunk are compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedPictures {
    /// The source video of the job.
    pub source: SourceSpec,
    /// How the segment was encoded.
    pub encoder: EncoderSpec,
    /// Side of the face crop in pixels.
    pub resolution_px: u32,
    /// What the worker was given to render.
    pub input: RenderInput,
    /// How loud the speech is in each frame of the chunk (see
    /// [`Timeline::loudness`](latentfarm_common::wire::job::Timeline::loudness)).
    pub loudness: Vec<u8>,
}

impl ExpectedPictures {
    /// The same with the segments of the source at these paths of this machine.
    fn at(&self, paths: &[PathBuf]) -> LocalPictures {
        let segments = self.input.segments.iter().zip(paths);
        let local = segments.map(|(slice, path)| LocalSlice {
            path: path.to_string_lossy().into_owned(),
            first: slice.first,
            pts: slice.pts.clone(),
        });
        LocalPictures {
            source: self.source.clone(),
            encoder: self.encoder.clone(),
            resolution_px: self.resolution_px,
            segments: local.collect(),
            frames: self.input.frames.clone(),
            loudness: self.loudness.clone(),
        }
    }
}

/// Why a result does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadSegment {
    /// It is damaged, or not what the done record says, as one clause.
    Broken(String),
    /// It is whole, and its pictures cannot be what the model made of the source, as one clause.
    Implausible(String),
}

impl BadSegment {
    /// What is wrong.
    pub fn reason(&self) -> &str {
        match self {
            Self::Broken(reason) | Self::Implausible(reason) => reason,
        }
    }
}
