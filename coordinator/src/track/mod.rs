//! Follows the speaker over the whole source video and computes the alignment of the face in each frame. The
//! dispatcher owns one [`SpeakerTrack`] per job: it adds the results of analysis chunks as they are verified,
//! and publishes a render chunk when the answers for all its frames are final.
//!
//! Results arrive in any order; they are used in frame order, as the prefix without gaps grows:
//!
//! ```text
//! observations ─▶ shots ─▶ SpeakerSelector: who speaks ─▶ FaceAligner: bridge, smooth ─▶ FrameFace per source frame
//!                (cuts)    one per shot                   one per shot
//! ```
//! The answer for a frame is final once its shot is complete or the analysed prefix is [`lookahead_frames`]
//! past it, and often sooner; [`SpeakerTrack::ready`] returns the number of final answers. An answer depends
//! on the observations alone, never on the order of their arrival or on the time of the query.
//!
//! If a range could not be analysed, the answers that depend on it are [`FrameFace::Unknown`] up to the next
//! cut. The answers from that cut on are the same as if nothing were missing.

mod face;
pub mod smooth;
pub mod speaker;
pub mod tracklets;

use std::collections::BTreeMap;

use latentfarm_common::time::{FrameRange, TimeBase};
use latentfarm_common::wire::outcome::FrameObservation;

pub use face::FrameFace;
use smooth::{FaceAligner, MAX_GAP};
use speaker::SpeakerSelector;

/// The answer for a frame is final when the analysis is this far past it, in seconds of the source.
const LOOKAHEAD_SECONDS: f64 = 10.0;

/// The error of a result whose number of observations is not the length of its range.
#[derive(Debug, thiserror::Error)]
#[error("the analysis of source frames {range} has observations of {found} frames")]
pub struct WrongLength {
    range: FrameRange,
    found: usize,
}

/// The speaker's face over the whole source video of one job.
#[derive(Debug)]
pub struct SpeakerTrack {
    frames: u64,
    lookahead: usize,
    resolution_px: u32,
    /// Results that arrived before those of earlier frames, by their first frame.
    pending: BTreeMap<u64, RangeResult>,
    /// All frames before this one have been processed.
    front: u64,
    /// The current shot; `None` after a missing range, until the next cut.
    shot: Option<Shot>,
    /// The frames at which a shot begins, in order; the first one's is left out.
    cuts: Vec<u64>,
    /// The final answers, from frame 0 on.
    faces: Vec<FrameFace>,
    has_face: bool,
}

/// The outcome of one analysis chunk.
#[derive(Debug)]
enum RangeResult {
    Observed(Vec<FrameObservation>),
    Missing(FrameRange),
}

/// The frames between two cuts.
#[derive(Debug)]
struct Shot {
    selector: SpeakerSelector,
    aligner: FaceAligner,
}

/// Returns the number of source frames in 10 seconds at the source's mean rate, 32 to 2400.
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

impl SpeakerTrack {
    /// Makes the track of the first `frames` source frames. `lookahead` is in frames, and is raised to more
    /// than [`MAX_GAP`].
    pub fn new(frames: u64, lookahead: usize, resolution_px: u32) -> Self {
        let lookahead = lookahead.max(MAX_GAP + 1);
        Self {
            frames,
            lookahead,
            resolution_px,
            pending: BTreeMap::new(),
            front: 0,
            shot: Some(Shot::new(lookahead, resolution_px)),
            cuts: Vec::new(),
            faces: Vec::new(),
            has_face: false,
        }
    }

    /// Adds the observations of one range. A range that was added before is ignored, and so is what lies past
    /// the track's end.
    pub fn add(
        &mut self,
        range: FrameRange,
        mut observations: Vec<FrameObservation>,
    ) -> Result<(), WrongLength> {
        if observations.len() as u64 != range.len() {
            return Err(WrongLength {
                range,
                found: observations.len(),
            });
        }
        let kept = self.frames.saturating_sub(range.start);
        observations.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        self.insert(range, RangeResult::Observed(observations));
        Ok(())
    }

    /// Records that a range will never be analysed.
    pub fn mark_missing(&mut self, range: FrameRange) {
        let end = range.end.min(self.frames).max(range.start);
        let missing = FrameRange::new(range.start, end);
        self.insert(missing, RangeResult::Missing(missing));
    }

    /// Returns the number of leading frames whose answer is final.
    pub fn ready(&self) -> u64 {
        self.faces.len() as u64
    }

    pub fn is_complete(&self) -> bool {
        self.ready() == self.frames
    }

    /// Returns the final answer for one frame, or `None` if it is not final yet. Frames past the track's end
    /// are not analysed and have no face.
    pub fn face(&self, frame: u64) -> Option<FrameFace> {
        if frame >= self.frames {
            return Some(FrameFace::Absent);
        }
        self.faces.get(usize::try_from(frame).ok()?).copied()
    }

    /// Returns whether the speaker was found in any frame so far.
    pub fn has_face(&self) -> bool {
        self.has_face
    }

    /// Whether two frames are known to be of different shots.
    pub fn has_cut_between(&self, one: u64, other: u64) -> bool {
        let (first, last) = (one.min(other), one.max(other));
        let next = self.cuts.partition_point(|cut| *cut <= first);
        self.cuts.get(next).is_some_and(|cut| *cut <= last)
    }

    fn insert(&mut self, range: FrameRange, result: RangeResult) {
        if range.start < self.front || range.is_empty() {
            return;
        }
        let final_before = self.faces.len();
        self.pending.entry(range.start).or_insert(result);
        while let Some(result) = self.pending.remove(&self.front) {
            match result {
                RangeResult::Observed(observations) => {
                    for (frame, observation) in (self.front..).zip(&observations) {
                        self.process(frame, observation);
                    }
                    self.front += observations.len() as u64;
                }
                RangeResult::Missing(missing) => {
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
        self.has_face = self.has_face || self.faces[final_before..].iter().any(is_face);
    }

    fn process(&mut self, frame: u64, observation: &FrameObservation) {
        if observation.cut {
            self.cuts.push(frame);
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
            selector: SpeakerSelector::new(lookahead),
            aligner: FaceAligner::new(resolution_px),
        }
    }

    fn push(&mut self, observation: &FrameObservation, out: &mut Vec<FrameFace>) {
        for answer in self.selector.push(&observation.faces) {
            self.aligner.push(answer.as_ref(), out);
        }
    }

    fn finish(mut self, out: &mut Vec<FrameFace>) {
        for answer in self.selector.finish() {
            self.aligner.push(answer.as_ref(), out);
        }
        self.aligner.finish(out);
    }
}

#[cfg(test)]
mod tests;
