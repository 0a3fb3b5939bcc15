//! Follows the speaker over the whole source video and says where the face is in each frame.
//!
//! Analysis results arrive in any order; they are used in frame order, as the prefix without gaps grows:
//!
//! ```text
//! observations ─▶ shots ─▶ Follower: who speaks ─▶ Aligner: bridge, smooth ─▶ FrameFace per source frame
//!                (cuts)     one per shot            one per shot
//! ```
//! A frame's answer is final once its shot is complete or the analysed front is [`lookahead_frames`] past it,
//! and often sooner; [`Track::ready`] tells how far that is. It depends on the observations alone, never on
//! the order in which they came or on when it was asked.
//!
//! Where a range could not be analysed, the answers that depend on it are [`FrameFace::Unknown`], up to the
//! next cut: everything from there on is as it would have been.

mod face;
pub mod smooth;
pub mod speaker;

use std::collections::BTreeMap;

use latentfarm_common::time::{FrameRange, TimeBase};
use latentfarm_common::wire::outcome::FrameObservation;

pub use face::FrameFace;
use smooth::{Aligner, MAX_GAP};
use speaker::Follower;

/// How far past a frame the analysis has to be for a final answer, in seconds of the source.
const LOOKAHEAD_SECONDS: f64 = 10.0;

/// Observations that do not fit the range that they are said to be of.
#[derive(Debug, thiserror::Error)]
#[error("analysis of source frames {range} brought {found} frames")]
pub struct WrongLength {
    range: FrameRange,
    found: usize,
}

/// The track of one job's source video.
#[derive(Debug)]
pub struct Track {
    frames: u64,
    lookahead: usize,
    resolution_px: u32,
    /// Results past the front, by first frame.
    early: BTreeMap<u64, Arrival>,
    /// Every frame before it has been taken in.
    front: u64,
    /// `None` from a range that is missing to the next cut.
    shot: Option<Shot>,
    faces: Vec<FrameFace>,
    has_face: bool,
}

#[derive(Debug)]
enum Arrival {
    Observed(Vec<FrameObservation>),
    Missing(FrameRange),
}

#[derive(Debug)]
struct Shot {
    follower: Follower,
    aligner: Aligner,
}

/// Source frames in 10 seconds at the source's mean rate, 32..=2400.
pub fn lookahead_frames(source_pts: &[i64], time_base: TimeBase) -> usize {
    const BOUNDS: (usize, usize) = (32, 2400);
    let (Some(first), Some(last)) = (source_pts.first(), source_pts.last()) else {
        return BOUNDS.0;
    };
    let seconds = (last - first) as f64 * f64::from(time_base.num) / f64::from(time_base.den);
    if seconds <= 0.0 {
        return BOUNDS.0;
    }
    let frames = LOOKAHEAD_SECONDS * (source_pts.len() - 1) as f64 / seconds;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let whole = frames.ceil().clamp(BOUNDS.0 as f64, BOUNDS.1 as f64) as usize;
    whole
}

impl Track {
    /// A track over the first `frames` source frames; `lookahead` in frames, more than [`MAX_GAP`].
    pub fn new(frames: u64, lookahead: usize, resolution_px: u32) -> Self {
        let lookahead = lookahead.max(MAX_GAP + 1);
        Self {
            frames,
            lookahead,
            resolution_px,
            early: BTreeMap::new(),
            front: 0,
            shot: Some(Shot::new(lookahead, resolution_px)),
            faces: Vec::new(),
            has_face: false,
        }
    }

    /// Takes the observations of one range. A range that is already known is ignored.
    pub fn add(&mut self, range: FrameRange, observations: Vec<FrameObservation>) -> Result<(), WrongLength> {
        if observations.len() as u64 != range.len() {
            return Err(WrongLength {
                range,
                found: observations.len(),
            });
        }
        self.arrive(range, Arrival::Observed(observations));
        Ok(())
    }

    /// Notes that a range will not be analysed.
    pub fn lose(&mut self, range: FrameRange) {
        self.arrive(range, Arrival::Missing(range));
    }

    /// Number of leading frames whose answer is final.
    pub fn ready(&self) -> u64 {
        self.faces.len() as u64
    }

    pub fn is_complete(&self) -> bool {
        self.ready() == self.frames
    }

    /// The final answer for one frame; `None` while it is open. Frames past the track's end are not analysed
    /// and have no face.
    pub fn face(&self, frame: u64) -> Option<FrameFace> {
        if frame >= self.frames {
            return Some(FrameFace::Absent);
        }
        self.faces.get(usize::try_from(frame).ok()?).copied()
    }

    /// Whether the speaker was found in any frame so far.
    pub fn has_face(&self) -> bool {
        self.has_face
    }

    fn arrive(&mut self, range: FrameRange, arrival: Arrival) {
        if range.start < self.front || range.is_empty() {
            return;
        }
        let known = self.faces.len();
        self.early.entry(range.start).or_insert(arrival);
        while let Some(arrival) = self.early.remove(&self.front) {
            match arrival {
                Arrival::Observed(observations) => {
                    self.front += observations.len() as u64;
                    for observation in &observations {
                        self.take(observation);
                    }
                }
                Arrival::Missing(missing) => {
                    self.front = missing.end;
                    self.shot = None;
                    self.mark_unknown();
                }
            }
            if self.front >= self.frames {
                self.end_shot();
            }
        }
        let is_face = |face: &FrameFace| matches!(face, FrameFace::Matrix(_));
        self.has_face = self.has_face || self.faces[known..].iter().any(is_face);
    }

    fn take(&mut self, observation: &FrameObservation) {
        if observation.cut {
            self.end_shot();
            self.shot = Some(Shot::new(self.lookahead, self.resolution_px));
        }
        match &mut self.shot {
            Some(shot) => shot.push(observation, &mut self.faces),
            None => self.faces.push(FrameFace::Unknown),
        }
    }

    fn end_shot(&mut self) {
        if let Some(shot) = self.shot.take() {
            shot.finish(&mut self.faces);
        }
    }

    fn mark_unknown(&mut self) {
        let front = usize::try_from(self.front).unwrap_or(usize::MAX);
        self.faces.resize(front, FrameFace::Unknown);
    }
}

impl Shot {
    fn new(lookahead: usize, resolution_px: u32) -> Self {
        Self {
            follower: Follower::new(lookahead),
            aligner: Aligner::new(resolution_px),
        }
    }

    fn push(&mut self, observation: &FrameObservation, out: &mut Vec<FrameFace>) {
        for answer in self.follower.push(&observation.faces) {
            self.aligner.push(answer.as_ref(), out);
        }
    }

    fn finish(mut self, out: &mut Vec<FrameFace>) {
        for answer in self.follower.finish() {
            self.aligner.push(answer.as_ref(), out);
        }
        self.aligner.finish(out);
    }
}

#[cfg(test)]
mod tests;
