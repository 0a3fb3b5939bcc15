//! The lips of each person of a video, shot by shot.

use std::collections::BTreeMap;

use latentfarm_common::lip_sync::{self, LipOpening, LipSync};
use latentfarm_common::time::{FrameRange, FrameRate};
use latentfarm_common::wire::outcome::FrameObservation;

use crate::track::tracklets::{TrackletId, TrackletLinker};

/// A person who is absent for longer, in source frames, is a new one afterwards.
const MEMORY: u64 = 25;

/// One face of one shot.
#[derive(Clone, Debug)]
pub struct FaceLips {
    /// The frames from the first to the last in which the face is seen.
    pub range: FrameRange,
    /// The mean box of the face: x, y, width, height in pixels.
    pub bbox: [f32; 4],
    /// How its lips fit the speech.
    pub fit: LipSync,
}

/// What is known of one person so far.
#[derive(Default)]
struct Person {
    /// The openings by output frame.
    lips: BTreeMap<u64, LipOpening>,
    bbox: [f32; 4],
}

/// Measures each face of each shot that is seen for long enough, in order of time. `shown` has the source
/// frame of each output frame.
pub(super) fn by_person(
    observations: &[FrameObservation],
    shown: &[usize],
    loudness: &[u8],
    rate: FrameRate,
) -> Vec<FaceLips> {
    let by_source = link(observations);
    let mut people: BTreeMap<(usize, TrackletId), Person> = BTreeMap::new();
    for (frame, source) in (0_u64..).zip(shown) {
        for (key, opening, bbox) in by_source.get(*source).into_iter().flatten() {
            let person = people.entry(*key).or_default();
            person.lips.insert(frame, *opening);
            for (sum, side) in person.bbox.iter_mut().zip(bbox) {
                *sum += side;
            }
        }
    }
    let mut faces: Vec<FaceLips> = people
        .into_values()
        .filter_map(|person| person.measured(loudness, rate))
        .collect();
    faces.sort_by_key(|face| face.range.start);
    faces
}

/// A face of a source frame: its shot and person, its lips and its box.
type LinkedFace = ((usize, TrackletId), LipOpening, [f32; 4]);

/// Links the faces of all source frames within each shot.
fn link(observations: &[FrameObservation]) -> Vec<Vec<LinkedFace>> {
    let mut shot = 0;
    let mut linker = TrackletLinker::new(MEMORY);
    observations
        .iter()
        .map(|observation| {
            if observation.cut {
                shot += 1;
                linker = TrackletLinker::new(MEMORY);
            }
            let faces = linker.link(&observation.faces).into_iter();
            faces
                .map(|tracked| ((shot, tracked.tracklet), tracked.face.lips, tracked.face.bbox))
                .collect()
        })
        .collect()
}

impl Person {
    fn measured(self, loudness: &[u8], rate: FrameRate) -> Option<FaceLips> {
        let (first, last) = (*self.lips.first_key_value()?.0, *self.lips.last_key_value()?.0);
        let range = FrameRange::new(first, last + 1);
        let lips: Vec<Option<LipOpening>> = range
            .frames()
            .map(|frame| self.lips.get(&frame).copied())
            .collect();
        let start = usize::try_from(first).ok()?;
        let fit = lip_sync::measure(&lips, loudness.get(start..)?, rate)?;
        let count = self.lips.len() as f32;
        Some(FaceLips {
            range,
            bbox: self.bbox.map(|sum| sum / count),
            fit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::wire::outcome::FaceObservation;

    fn face(x: f32, lips: u8) -> FaceObservation {
        FaceObservation {
            bbox: [x, 100.0, 60.0, 60.0],
            score: 0.9,
            points: [[x, 110.0], [x + 40.0, 110.0], [x + 20.0, 130.0]],
            lips: LipOpening(u16::from(lips)),
        }
    }

    #[test]
    fn each_person_of_each_shot_is_measured_alone() {
        // Two people; the left one's lips follow the speech. After the cut there is one person.
        let loudness: Vec<u8> = (0..200_u32)
            .map(|n| if n * n % 13 < 5 { 200 } else { 30 })
            .collect();
        let observations: Vec<FrameObservation> = (0_u8..200)
            .zip(&loudness)
            .map(|(n, loud)| FrameObservation {
                cut: n == 100,
                faces: if n < 100 {
                    vec![face(300.0, n % 7), face(0.0, loud / 2)]
                } else {
                    vec![face(10.0, loud / 2)]
                },
            })
            .collect();
        let shown: Vec<usize> = (0..200).collect();
        let faces = by_person(&observations, &shown, &loudness, FrameRate::FPS_25);
        let found: Vec<(u64, u64, bool)> = faces
            .iter()
            .map(|face| (face.range.start, face.range.end, face.fit.correlation > 0.99))
            .collect();
        assert_eq!(found.len(), 3, "{faces:?}");
        assert!(
            found.contains(&(0, 100, true)) && found.contains(&(0, 100, false)),
            "{found:?}"
        );
        assert_eq!(found[2], (100, 200, true));
        let boxes: Vec<f32> = faces.iter().map(|face| face.bbox[0]).collect();
        assert!(
            boxes.contains(&300.0) && boxes.contains(&0.0) && boxes[2] > 9.9,
            "{boxes:?}"
        );
        let short = by_person(&observations[..40], &shown[..40], &loudness, FrameRate::FPS_25);
        assert!(short.is_empty(), "40 frames are less than two seconds");
    }
}
