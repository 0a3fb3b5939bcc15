//! Chooses the speaker of a shot and stays with that person.
//!
//! Faces are linked from frame to frame by position and size into *tracklets*, all of them at once, so that
//! one person's face is never taken for another's while both are in the picture. The speaker is the tracklet
//! with the largest area summed over `lookahead` frames from the first frame that shows a face. That person
//! stays the speaker to the end of the shot, through absences of up to `lookahead` frames; after a longer
//! absence the speaker is chosen again. The answer for a frame depends on earlier frames of its shot and on
//! at most `lookahead` frames from it on, never on the time of the query.

use std::collections::{BTreeMap, VecDeque};

use latentfarm_common::wire::outcome::FaceObservation;

use super::tracklets::{TrackedFace, TrackletId, TrackletLinker, side};

/// Links the faces of one shot, frame by frame, and selects the speaker's.
#[derive(Debug)]
pub struct SpeakerSelector {
    lookahead: usize,
    linker: TrackletLinker,
    /// The tracked faces of each frame that has no answer yet, oldest first.
    undecided: VecDeque<Vec<TrackedFace>>,
    speaker: Option<Speaker>,
}

#[derive(Clone, Copy, Debug)]
struct Speaker {
    id: TrackletId,
    /// Number of answered frames since the speaker was last in the picture.
    missed: usize,
}

impl SpeakerSelector {
    /// Makes the selector of a new shot. `lookahead` is in frames, at least 1.
    pub fn new(lookahead: usize) -> Self {
        debug_assert!(lookahead > 0, "the speaker is chosen from at least one frame");
        let lookahead = lookahead.max(1);
        Self {
            lookahead,
            linker: TrackletLinker::new(lookahead as u64),
            undecided: VecDeque::new(),
            speaker: None,
        }
    }

    /// Processes the next frame's faces and returns the answers that became final, in frame order.
    pub fn push(&mut self, faces: &[FaceObservation]) -> Vec<Option<TrackedFace>> {
        let tracked_faces = self.linker.link(faces);
        self.undecided.push_back(tracked_faces);
        self.decide(false)
    }

    /// Ends the shot and returns the answers for all remaining frames.
    pub fn finish(mut self) -> Vec<Option<TrackedFace>> {
        self.decide(true)
    }

    fn decide(&mut self, over: bool) -> Vec<Option<TrackedFace>> {
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
            let tracked = frame
                .iter()
                .find(|tracked| tracked.tracklet == speaker.id)
                .copied();
            if tracked.is_some() {
                speaker.missed = 0;
            } else {
                speaker.missed += 1;
                if speaker.missed > self.lookahead {
                    self.speaker = None;
                    continue;
                }
            }
            answers.push(tracked);
            self.undecided.pop_front();
        }
        answers
    }

    /// Returns the tracklet with the largest summed area in the next `lookahead` frames, and the oldest of
    /// equal ones.
    fn largest(&self) -> Option<TrackletId> {
        let mut areas: BTreeMap<TrackletId, f64> = BTreeMap::new();
        for tracked in self.undecided.iter().take(self.lookahead).flatten() {
            *areas.entry(tracked.tracklet).or_default() += side(&tracked.face).powi(2);
        }
        let largest = areas
            .into_iter()
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        largest.map(|(id, _area)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::lip_sync::LipOpening;

    fn face(x: f32, size: f32) -> FaceObservation {
        FaceObservation {
            bbox: [x, 100.0, size, size],
            score: 0.9,
            points: [[x, 100.0], [x + size, 100.0], [x + size / 2.0, 150.0]],
            lips: LipOpening(50),
        }
    }

    /// Returns the x of the speaker's box in each frame, or -1 if the speaker is absent.
    fn follow(lookahead: usize, frames: &[Vec<FaceObservation>]) -> Vec<f32> {
        let mut selector = SpeakerSelector::new(lookahead);
        let mut answers = Vec::new();
        for frame in frames {
            answers.extend(selector.push(frame));
        }
        answers.extend(selector.finish());
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
        let mut selector = SpeakerSelector::new(3);
        let frame = [face(0.0, 60.0)];
        assert_eq!(selector.push(&[]).len(), 1, "an empty frame needs no choice");
        assert_eq!(selector.push(&frame).len(), 0);
        assert_eq!(selector.push(&frame).len(), 0);
        assert_eq!(selector.push(&frame).len(), 3);
        assert_eq!(selector.push(&frame).len(), 1);
        assert!(selector.finish().is_empty());
    }

    #[test]
    fn broken_numbers_are_no_face() {
        let mut broken = face(0.0, 60.0);
        broken.points[1][0] = f32::NAN;
        assert_eq!(follow(1, &[vec![broken], vec![face(5.0, 0.0)]]), [-1.0, -1.0]);
    }
}
