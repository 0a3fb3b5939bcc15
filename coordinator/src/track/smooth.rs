//! From the speaker's sightings to one alignment matrix per frame: bridges short gaps, smooths, resets.
//!
//! A gap of up to [`MAX_GAP`] frames between two sightings of the same person is filled by moving the three
//! points in a straight line. Smoothing starts afresh at a shot's first face, after a longer gap, and when
//! another person becomes the speaker.

use latentfarm_common::align::Smoother;

use super::face::FrameFace;
use super::speaker::{Sighting, TraceId};

/// Longest gap that is bridged, in source frames.
pub const MAX_GAP: usize = 8;

type Points = [[f32; 2]; 3];

/// Turns the answers of one shot, in frame order, into matrices.
#[derive(Debug)]
pub struct Aligner {
    resolution_px: u32,
    smoother: Smoother,
    last: Option<(TraceId, Points)>,
    /// Frames since `last` whose answer depends on whether the face comes back.
    open: usize,
}

impl Aligner {
    pub fn new(resolution_px: u32) -> Self {
        Self {
            resolution_px,
            smoother: Smoother::new(),
            last: None,
            open: 0,
        }
    }

    /// Takes the next frame's answer and appends what became certain.
    pub fn push(&mut self, answer: Option<&Sighting>, out: &mut Vec<FrameFace>) {
        match (answer, self.last) {
            (Some(sighting), Some((trace, from))) if trace == sighting.trace => {
                let to = sighting.face.points;
                let steps = self.open + 1;
                for step in 1..=self.open {
                    let points = between(&from, &to, step as f64 / steps as f64);
                    self.emit(&points, out);
                }
                self.open = 0;
                self.see(sighting, out);
            }
            (Some(sighting), _) => {
                self.forget(out);
                self.see(sighting, out);
            }
            (None, Some(_)) if self.open < MAX_GAP => self.open += 1,
            (None, _) => {
                self.forget(out);
                out.push(FrameFace::Absent);
            }
        }
    }

    /// Closes the shot.
    pub fn finish(mut self, out: &mut Vec<FrameFace>) {
        self.forget(out);
    }

    fn see(&mut self, sighting: &Sighting, out: &mut Vec<FrameFace>) {
        self.last = Some((sighting.trace, sighting.face.points));
        self.emit(&sighting.face.points, out);
    }

    fn emit(&mut self, points: &Points, out: &mut Vec<FrameFace>) {
        out.push(FrameFace::Matrix(self.smoother.next(points, self.resolution_px)));
    }

    /// The face does not come back: the open gap has none.
    fn forget(&mut self, out: &mut Vec<FrameFace>) {
        out.extend(std::iter::repeat_n(FrameFace::Absent, self.open));
        self.open = 0;
        self.last = None;
        self.smoother = Smoother::new();
    }
}

/// The points at `share` of the way, in f64 so that the end points are met exactly.
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
    use crate::track::speaker::Follower;
    use latentfarm_common::wire::outcome::FaceObservation;

    fn face(x: f32) -> FaceObservation {
        FaceObservation {
            bbox: [x, 100.0, 60.0, 60.0],
            score: 0.9,
            points: [[x + 10.0, 110.0], [x + 50.0, 110.0], [x + 30.0, 130.0]],
        }
    }

    /// One shot in which a face stands at the given x, or nowhere.
    fn align(xs: &[Option<f32>]) -> Vec<FrameFace> {
        let mut follower = Follower::new(40);
        let mut answers = Vec::new();
        for x in xs {
            let faces: Vec<_> = x.iter().map(|&x| face(x)).collect();
            answers.extend(follower.push(&faces));
        }
        answers.extend(follower.finish());
        let mut aligner = Aligner::new(256);
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
        let seen = align(&[Some(0.0), Some(2.0), Some(4.0), Some(6.0), Some(8.0)]);
        assert_eq!(bridged, seen);
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
        let sighting = |face| {
            let mut follower = Follower::new(1);
            follower.push(&[face])[0].unwrap()
        };
        let mut aligner = Aligner::new(256);
        let mut out = Vec::new();
        aligner.push(Some(&sighting(tilted)), &mut out);
        aligner.push(None, &mut out);
        aligner.push(Some(&sighting(face(0.0))), &mut out);
        assert_eq!(out.len(), 3);
        assert_ne!(out[2], align(&[Some(0.0)])[0], "the earlier pose still weighs in");
    }
}
