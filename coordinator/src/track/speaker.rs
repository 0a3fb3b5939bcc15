//! Chooses the speaker of a shot and stays with that person.
//!
//! Faces are linked from frame to frame by place and size into *traces*, all of them at once, so that one
//! person's face is never taken for another's while both are in the picture. The speaker is the trace with
//! the largest area summed over the first [`Follower`] `lookahead` frames from the first frame that shows a
//! face. That person stays the speaker to the end of the shot, through absences of up to `lookahead` frames;
//! after a longer one the choice is made anew. A frame's answer depends on earlier frames of its shot and on
//! at most `lookahead` frames from it on, never on when it is asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use latentfarm_common::wire::outcome::FaceObservation;

/// Farthest that a face's centre moves in one frame, in sides of its box.
const REACH: f64 = 0.75;
/// How much farther it may have moved for each frame that it was not seen.
const REACH_PER_MISSED_FRAME: f64 = 0.1;
/// Largest ratio of the sides of one face's boxes in two sightings.
const SIDE_RATIO: f64 = 1.6;

/// Names one person within one shot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TraceId(u32);

/// The speaker's face in one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sighting {
    pub trace: TraceId,
    pub face: FaceObservation,
}

/// Follows the faces of one shot, frame by frame.
#[derive(Debug)]
pub struct Follower {
    lookahead: usize,
    /// Frames pushed.
    seen: u64,
    traces: Vec<Trace>,
    next: u32,
    /// Frames without an answer yet, oldest first.
    undecided: VecDeque<Vec<Sighting>>,
    speaker: Option<Speaker>,
}

#[derive(Debug)]
struct Trace {
    id: TraceId,
    centre: (f64, f64),
    side: f64,
    last_frame: u64,
}

#[derive(Clone, Copy, Debug)]
struct Speaker {
    id: TraceId,
    /// Frames decided since the speaker was last in the picture.
    missed: usize,
}

impl Follower {
    /// `lookahead` in frames, at least 1.
    pub fn new(lookahead: usize) -> Self {
        debug_assert!(lookahead > 0, "a choice needs a frame to look at");
        Self {
            lookahead: lookahead.max(1),
            seen: 0,
            traces: Vec::new(),
            next: 0,
            undecided: VecDeque::new(),
            speaker: None,
        }
    }

    /// Takes the next frame's faces and returns the answers that became certain, in frame order.
    pub fn push(&mut self, faces: &[FaceObservation]) -> Vec<Option<Sighting>> {
        let sightings = self.link(faces);
        self.undecided.push_back(sightings);
        self.decide(false)
    }

    /// The answers for all frames that are left: the shot is over.
    pub fn finish(mut self) -> Vec<Option<Sighting>> {
        self.decide(true)
    }

    fn decide(&mut self, over: bool) -> Vec<Option<Sighting>> {
        let mut answers = Vec::new();
        while let Some(frame) = self.undecided.front() {
            let Some(speaker) = &mut self.speaker else {
                if frame.is_empty() {
                    answers.push(None);
                    self.undecided.pop_front();
                    continue;
                }
                if self.undecided.len() < self.lookahead && !over {
                    break;
                }
                self.speaker = self.largest().map(|id| Speaker { id, missed: 0 });
                continue;
            };
            let sighting = frame
                .iter()
                .find(|sighting| sighting.trace == speaker.id)
                .copied();
            if sighting.is_some() {
                speaker.missed = 0;
            } else {
                speaker.missed += 1;
                if speaker.missed > self.lookahead {
                    self.speaker = None;
                    continue;
                }
            }
            answers.push(sighting);
            self.undecided.pop_front();
        }
        answers
    }

    /// The trace with the largest summed area in the next `lookahead` frames; the oldest of equals.
    fn largest(&self) -> Option<TraceId> {
        let mut areas: BTreeMap<TraceId, f64> = BTreeMap::new();
        for sighting in self.undecided.iter().take(self.lookahead).flatten() {
            *areas.entry(sighting.trace).or_default() += side(&sighting.face).powi(2);
        }
        let better = |best: &(TraceId, f64), next: &(TraceId, f64)| next.1 > best.1;
        areas
            .into_iter()
            .reduce(|best, next| if better(&best, &next) { next } else { best })
            .map(|(id, _area)| id)
    }

    /// Gives every usable face of the next frame to the nearest trace that it fits, else to a new one.
    fn link(&mut self, faces: &[FaceObservation]) -> Vec<Sighting> {
        let now = self.seen;
        self.seen += 1;
        let memory = self.lookahead as u64;
        self.traces.retain(|trace| now - trace.last_frame <= memory + 1);

        let faces: Vec<&FaceObservation> = faces.iter().filter(|face| is_usable(face)).collect();
        let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
        for (trace_index, trace) in self.traces.iter().enumerate() {
            for (face_index, face) in faces.iter().enumerate() {
                if let Some(distance) = trace.distance_to(face, now) {
                    pairs.push((distance, trace_index, face_index));
                }
            }
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));

        let mut trace_of = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for (_distance, trace_index, face_index) in pairs {
            if !trace_of.contains_key(&face_index) && taken.insert(trace_index) {
                trace_of.insert(face_index, trace_index);
            }
        }
        let mut sightings = Vec::with_capacity(faces.len());
        for (face_index, face) in faces.into_iter().enumerate() {
            let trace = match trace_of.get(&face_index) {
                Some(&index) => {
                    let trace = &mut self.traces[index];
                    trace.sight(face, now);
                    trace.id
                }
                None => self.start(face, now),
            };
            sightings.push(Sighting { trace, face: *face });
        }
        sightings
    }

    fn start(&mut self, face: &FaceObservation, now: u64) -> TraceId {
        let id = TraceId(self.next);
        self.next += 1;
        self.traces.push(Trace {
            id,
            centre: centre(face),
            side: side(face),
            last_frame: now,
        });
        id
    }
}

impl Trace {
    /// Distance in sides of the box, where the face can be this person's.
    fn distance_to(&self, face: &FaceObservation, now: u64) -> Option<f64> {
        let missed = (now - self.last_frame).saturating_sub(1);
        let reach = REACH + REACH_PER_MISSED_FRAME * missed as f64;
        let (x, y) = centre(face);
        let distance = (x - self.centre.0).hypot(y - self.centre.1) / self.side;
        let ratio = (side(face) / self.side).max(self.side / side(face));
        (distance <= reach && ratio <= SIDE_RATIO).then_some(distance)
    }

    fn sight(&mut self, face: &FaceObservation, now: u64) {
        self.centre = centre(face);
        self.side = side(face);
        self.last_frame = now;
    }
}

fn is_usable(face: &FaceObservation) -> bool {
    let finite = face
        .bbox
        .iter()
        .chain(face.points.iter().flatten())
        .all(|v| v.is_finite());
    finite && face.bbox[2] > 0.0 && face.bbox[3] > 0.0
}

fn centre(face: &FaceObservation) -> (f64, f64) {
    let [x, y, width, height] = face.bbox.map(f64::from);
    (x + width / 2.0, y + height / 2.0)
}

/// Side of the square of the box's area.
fn side(face: &FaceObservation) -> f64 {
    (f64::from(face.bbox[2]) * f64::from(face.bbox[3])).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(x: f32, size: f32) -> FaceObservation {
        FaceObservation {
            bbox: [x, 100.0, size, size],
            score: 0.9,
            points: [[x, 100.0], [x + size, 100.0], [x + size / 2.0, 150.0]],
        }
    }

    /// x of the speaker's box in each frame, -1 where there is none.
    fn follow(lookahead: usize, frames: &[Vec<FaceObservation>]) -> Vec<f32> {
        let mut follower = Follower::new(lookahead);
        let mut answers = Vec::new();
        for frame in frames {
            answers.extend(follower.push(frame));
        }
        answers.extend(follower.finish());
        answers
            .iter()
            .map(|a| a.map_or(-1.0, |s| s.face.bbox[0]))
            .collect()
    }

    #[test]
    fn the_larger_person_over_the_lookahead_is_the_speaker() {
        let small_first = vec![face(0.0, 55.0), face(300.0, 50.0)];
        let large_later = vec![face(300.0, 60.0), face(0.0, 55.0)];
        let frames = vec![small_first, large_later.clone(), large_later];
        assert_eq!(follow(3, &frames), [300.0, 300.0, 300.0]);
        assert_eq!(
            follow(1, &frames),
            [0.0, 0.0, 0.0],
            "one frame of lookahead sees the first frame only"
        );
    }

    #[test]
    fn the_speaker_stays_when_another_face_grows_larger() {
        let frames: Vec<_> = (0_u8..20)
            .map(|n| vec![face(0.0, 60.0), face(300.0, 50.0 + 2.0 * f32::from(n))])
            .collect();
        assert_eq!(follow(4, &frames), [0.0; 20]);
    }

    #[test]
    fn a_moving_speaker_is_followed_past_a_bystander() {
        let frames: Vec<_> = (0_u8..30)
            .map(|n| vec![face(10.0 * f32::from(n), 60.0), face(400.0, 55.0)])
            .collect();
        let expected: Vec<f32> = (0_u8..30).map(|n| 10.0 * f32::from(n)).collect();
        assert_eq!(follow(5, &frames), expected);
    }

    #[test]
    fn nobody_stands_in_for_a_speaker_who_is_briefly_gone() {
        let both = vec![face(0.0, 120.0), face(300.0, 50.0)];
        let other = vec![face(300.0, 50.0)];
        let frames = vec![both.clone(), other.clone(), other.clone(), both.clone()];
        assert_eq!(follow(3, &frames), [0.0, -1.0, -1.0, 0.0]);
        let long = vec![both, other.clone(), other.clone(), other.clone(), other];
        assert_eq!(follow(2, &long), [0.0, -1.0, -1.0, 300.0, 300.0]);
    }

    #[test]
    fn answers_come_at_the_end_of_the_lookahead_and_then_at_once() {
        let mut follower = Follower::new(3);
        let frame = [face(0.0, 60.0)];
        assert_eq!(follower.push(&[]).len(), 1, "an empty frame needs no choice");
        assert_eq!(follower.push(&frame).len(), 0);
        assert_eq!(follower.push(&frame).len(), 0);
        assert_eq!(follower.push(&frame).len(), 3);
        assert_eq!(follower.push(&frame).len(), 1);
        assert!(follower.finish().is_empty());
    }

    #[test]
    fn broken_numbers_are_no_face() {
        let mut broken = face(0.0, 60.0);
        broken.points[1][0] = f32::NAN;
        assert_eq!(follow(1, &[vec![broken], vec![face(5.0, 0.0)]]), [-1.0, -1.0]);
    }
}
