//! Turns the tracked faces of one shot's speaker into one alignment matrix per frame, or into "no face". The
//! coordinator's tracking makes an aligner for each shot and pushes the shot's frames in order.
//!
//! A gap of up to [`MAX_GAP`] frames between two faces of one tracklet is filled: the three landmarks move in
//! a straight line from the face before the gap to the face after it. The matrices are smoothed over time.
//! Smoothing restarts at the first face of a shot, after a gap of more than [`MAX_GAP`] frames, and if
//! another tracklet becomes the speaker.

use latentfarm_common::align::Smoother;

use super::face::FrameFace;
use super::tracklets::{TrackedFace, TrackletId};

/// The length of the longest gap that is filled, in source frames.
pub const MAX_GAP: usize = 8;

/// Three landmarks in pixels of the frame: the centres of both brows, and the nose.
type Points = [[f32; 2]; 3];

/// Aligns the faces of one shot, in frame order. Results come up to [`MAX_GAP`] frames late.
#[derive(Debug)]
pub struct FaceAligner {
    resolution_px: u32,
    smoother: Smoother,
    /// The latest face; `None` if more than [`MAX_GAP`] frames without a face followed it.
    last: Option<(TrackletId, Points)>,
    /// The number of frames since `last`, at most [`MAX_GAP`]. Whether they get matrices depends on whether
    /// the same tracklet has a face again before the gap is too long.
    undecided: usize,
}

impl FaceAligner {
    pub fn new(resolution_px: u32) -> Self {
        Self {
            resolution_px,
            smoother: Smoother::default(),
            last: None,
            undecided: 0,
        }
    }

    /// Processes the next frame, with its face if it has one, and appends the results that became final to
    /// `out`.
    pub fn push(&mut self, face: Option<&TrackedFace>, out: &mut Vec<FrameFace>) {
        match (face, self.last) {
            (Some(tracked), Some((tracklet, from))) if tracklet == tracked.tracklet => {
                let to = tracked.face.points;
                let steps = self.undecided + 1;
                for step in 1..=self.undecided {
                    let points = between(&from, &to, step as f64 / steps as f64);
                    self.emit(&points, out);
                }
                self.undecided = 0;
                self.append(tracked, out);
            }
            (Some(tracked), _) => {
                self.reset(out);
                self.append(tracked, out);
            }
            (None, Some(_)) if self.undecided < MAX_GAP => self.undecided += 1,
            (None, _) => {
                self.reset(out);
                out.push(FrameFace::Absent);
            }
        }
    }

    /// Ends the shot and appends the results of the undecided frames to `out`: they have no face.
    pub fn finish(mut self, out: &mut Vec<FrameFace>) {
        self.reset(out);
    }

    fn append(&mut self, tracked: &TrackedFace, out: &mut Vec<FrameFace>) {
        self.last = Some((tracked.tracklet, tracked.face.points));
        self.emit(&tracked.face.points, out);
    }

    fn emit(&mut self, points: &Points, out: &mut Vec<FrameFace>) {
        out.push(FrameFace::Matrix(self.smoother.next(points, self.resolution_px)));
    }

    /// Ends the gap without a face, and starts smoothing afresh.
    fn reset(&mut self, out: &mut Vec<FrameFace>) {
        out.extend(std::iter::repeat_n(FrameFace::Absent, self.undecided));
        self.undecided = 0;
        self.last = None;
        self.smoother = Smoother::default();
    }
}

/// Returns the points at `share` (0 to 1) of the way, computed in f64 so that the end points are met exactly.
fn between(from: &Points, to: &Points, share: f64) -> Points {
    let mut points = *from;
    for (point, end) in points.iter_mut().zip(to) {
        for (value, end) in point.iter_mut().zip(end) {
            let start = f64::from(*value);
            #[expect(clippy::cast_possible_truncation, reason = "between two f32 values")]
            let moved = (start + (f64::from(*end) - start) * share) as f32;
            *value = moved;
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::speaker::SpeakerSelector;
    use latentfarm_common::lip_sync::LipOpening;
    use latentfarm_common::wire::outcome::FaceObservation;

    fn face(x: f32) -> FaceObservation {
        FaceObservation {
            bbox: [x, 100.0, 60.0, 60.0],
            score: 0.9,
            points: [[x + 10.0, 110.0], [x + 50.0, 110.0], [x + 30.0, 130.0]],
            lips: LipOpening(50),
        }
    }

    /// Aligns one shot in which the face is at the given x in each frame, or absent.
    fn align(xs: &[Option<f32>]) -> Vec<FrameFace> {
        let mut selector = SpeakerSelector::new(40);
        let mut answers = Vec::new();
        for x in xs {
            let faces: Vec<_> = x.iter().map(|&x| face(x)).collect();
            answers.extend(selector.push(&faces));
        }
        answers.extend(selector.finish());
        let mut aligner = FaceAligner::new(256);
        let mut out = Vec::new();
        for answer in &answers {
            aligner.push(answer.as_ref(), &mut out);
        }
        aligner.finish(&mut out);
        out
    }

    #[test]
    fn a_short_gap_is_bridged_by_a_straight_line() {
        let bridged = align(&[Some(0.0), None, None, None, Some(8.0)]);
        let observed = align(&[Some(0.0), Some(2.0), Some(4.0), Some(6.0), Some(8.0)]);
        assert_eq!(bridged, observed);
    }

    #[test]
    fn a_long_gap_and_the_ends_have_no_face_and_smoothing_starts_afresh() {
        let mut xs = vec![None, Some(0.0)];
        xs.extend([None; MAX_GAP + 1]);
        xs.extend([Some(4.0), None]);
        let faces = align(&xs);
        assert_eq!(faces.len(), xs.len());
        for (frame, x) in xs.iter().enumerate() {
            assert_eq!(
                matches!(faces[frame], FrameFace::Matrix(_)),
                x.is_some(),
                "frame {frame}"
            );
        }
        assert_eq!(faces[MAX_GAP + 3], align(&[Some(4.0)])[0]);
    }

    #[test]
    fn smoothing_runs_through_a_bridged_gap() {
        let mut tilted = face(0.0);
        tilted.points[2] = [40.0, 135.0];
        let tracked = |face| {
            let mut selector = SpeakerSelector::new(1);
            selector.push(&[face])[0].unwrap()
        };
        let mut aligner = FaceAligner::new(256);
        let mut out = Vec::new();
        aligner.push(Some(&tracked(tilted)), &mut out);
        aligner.push(None, &mut out);
        aligner.push(Some(&tracked(face(0.0))), &mut out);
        assert_eq!(out.len(), 3);
        assert_ne!(out[2], align(&[Some(0.0)])[0], "the earlier pose still weighs in");
    }
}
