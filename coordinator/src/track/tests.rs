use latentfarm_common::lip_sync::LipOpening;
use latentfarm_common::wire::outcome::FaceObservation;
use proptest::prelude::*;

use super::*;

const LOOKAHEAD: usize = 20;

fn face(x: f32, size: f32) -> FaceObservation {
    FaceObservation {
        bbox: [x, 100.0, size, size],
        score: 0.9,
        points: [
            [x, 100.0],
            [x + size, 102.0],
            [x + size / 2.0, 100.0 + size / 2.0],
        ],
        lips: LipOpening(50),
    }
}

fn frame(cut: bool, faces: Vec<FaceObservation>) -> FrameObservation {
    FrameObservation { cut, faces }
}

fn any_frame() -> impl Strategy<Value = FrameObservation> {
    let some_face = (0_u8..4, 40.0_f32..80.0).prop_map(|(place, size)| face(f32::from(place) * 30.0, size));
    let faces = prop::collection::vec(some_face, 0..3);
    (prop::bool::weighted(0.05), faces).prop_map(|(cut, faces)| frame(cut, faces))
}

/// Splits the frames into analysis chunks of 16.
fn pieces(frames: &[FrameObservation]) -> Vec<(FrameRange, Vec<FrameObservation>)> {
    let ranges = (0_u64..).step_by(16);
    let chunks = frames.chunks(16);
    ranges
        .zip(chunks)
        .map(|(start, chunk)| (FrameRange::new(start, start + chunk.len() as u64), chunk.to_vec()))
        .collect()
}

fn faces_of(track: &SpeakerTrack) -> Vec<Option<FrameFace>> {
    (0..track.frames).map(|n| track.face(n)).collect()
}

fn in_order(frames: &[FrameObservation]) -> Vec<Option<FrameFace>> {
    let mut track = SpeakerTrack::new(frames.len() as u64, LOOKAHEAD, 256);
    for (range, observations) in pieces(frames) {
        track.add(range, observations).unwrap();
    }
    assert!(track.is_complete());
    faces_of(&track)
}

proptest! {
    #[test]
    fn any_arrival_order_gives_the_same_track(
        frames in prop::collection::vec(any_frame(), 1..200),
        order in prop::collection::vec(any::<prop::sample::Index>(), 16),
    ) {
        let expected = in_order(&frames);
        let mut waiting = pieces(&frames);
        let mut picks = order.iter().cycle();
        let mut track = SpeakerTrack::new(frames.len() as u64, LOOKAHEAD, 256);
        while !waiting.is_empty() {
            let pick = picks.next().unwrap().index(waiting.len());
            let (range, observations) = waiting.remove(pick);
            track.add(range, observations.clone()).unwrap();
            track.add(range, observations).unwrap();
            for (n, face) in faces_of(&track).into_iter().enumerate() {
                prop_assert!(face.is_none() || face == expected[n], "frame {} changed", n);
            }
        }
        prop_assert_eq!(faces_of(&track), expected);
    }

    #[test]
    fn answers_are_final_ten_seconds_behind_the_front(frames in prop::collection::vec(any_frame(), 1..200)) {
        let mut track = SpeakerTrack::new(frames.len() as u64, LOOKAHEAD, 256);
        for (range, observations) in pieces(&frames) {
            track.add(range, observations).unwrap();
            prop_assert!(track.ready() <= range.end);
            prop_assert!(track.ready() + LOOKAHEAD as u64 > range.end, "{} of {}", track.ready(), range.end);
        }
        prop_assert!(track.is_complete());
    }

    #[test]
    fn a_lost_range_hides_its_shot_and_changes_nothing_else(
        frames in prop::collection::vec(any_frame(), 1..200),
        lost in any::<prop::sample::Index>(),
    ) {
        let expected = in_order(&frames);
        let all = pieces(&frames);
        let lost = lost.index(all.len());
        let mut track = SpeakerTrack::new(frames.len() as u64, LOOKAHEAD, 256);
        for (n, (range, observations)) in all.iter().enumerate() {
            if n == lost {
                track.mark_missing(*range);
            } else {
                track.add(*range, observations.clone()).unwrap();
            }
        }
        prop_assert!(track.is_complete());
        let hole = all[lost].0;
        let cuts = (0_u64..).zip(&frames).filter(|(_, frame)| frame.cut).map(|(n, _)| n);
        let next_cut = cuts.into_iter().find(|n| *n >= hole.end);
        for ((n, face), expected) in (0_u64..).zip(faces_of(&track)).zip(expected) {
            if face != Some(FrameFace::Unknown) {
                prop_assert_eq!(face, expected);
                prop_assert!(!hole.contains(n));
            }
            if next_cut.is_some_and(|cut| n >= cut) {
                prop_assert_ne!(face, Some(FrameFace::Unknown));
            }
        }
    }
}

#[test]
fn a_cut_starts_a_new_speaker_and_fresh_smoothing() {
    let first = frame(true, vec![face(0.0, 60.0), face(200.0, 40.0)]);
    let second = frame(true, vec![face(0.0, 40.0), face(200.0, 60.0)]);
    let together = in_order(&[first.clone(), second.clone()]);
    assert_eq!(together, [in_order(&[first])[0], in_order(&[second])[0]]);
}

#[test]
fn a_video_without_faces_is_known_at_once() {
    let mut track = SpeakerTrack::new(32, LOOKAHEAD, 256);
    let empty = vec![frame(false, Vec::new()); 16];
    track.add(FrameRange::new(0, 16), empty).unwrap();
    assert_eq!(track.ready(), 16);
    assert!(!track.has_face());
    assert_eq!(track.face(16), None);
    assert_eq!(
        track.face(32),
        Some(FrameFace::Absent),
        "past the end nothing is analysed"
    );
}

#[test]
fn a_result_of_the_wrong_length_is_refused() {
    let mut track = SpeakerTrack::new(32, LOOKAHEAD, 256);
    let error = track
        .add(FrameRange::new(0, 16), vec![frame(false, Vec::new()); 15])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the analysis of source frames 0..16 has observations of 15 frames"
    );
}

#[test]
fn ten_seconds_are_counted_at_the_source_rate() {
    let millis = TimeBase { num: 1, den: 1000 };
    let pts: Vec<i64> = (0..100).map(|n| n * 20).collect();
    assert_eq!(lookahead_frames(&pts, millis), 500);
    assert_eq!(lookahead_frames(&pts[..1], millis), 32);
    let slow: Vec<i64> = (0..100).map(|n| n * 1000).collect();
    assert_eq!(lookahead_frames(&slow, millis), 32);
}

proptest! {
    #[test]
    fn what_is_analysed_past_the_end_changes_nothing(
        frames in prop::collection::vec(any_frame(), 1..60),
        more in prop::collection::vec(any_frame(), 1..40),
        is_missing in any::<bool>(),
    ) {
        let mut track = SpeakerTrack::new(frames.len() as u64, LOOKAHEAD, 256);
        let mut expected = SpeakerTrack::new(frames.len() as u64, LOOKAHEAD, 256);
        let all: Vec<_> = frames.iter().chain(&more).cloned().collect();
        let parts = pieces(&all).into_iter().zip(pieces(&frames));
        let last = frames.len().div_ceil(16) - 1;
        for (number, ((range, observations), (shorter, fewer))) in parts.enumerate() {
            if is_missing && number == last {
                track.mark_missing(range);
                expected.mark_missing(shorter);
            } else {
                track.add(range, observations).unwrap();
                expected.add(shorter, fewer).unwrap();
            }
        }
        prop_assert!(track.is_complete());
        prop_assert_eq!(faces_of(&track), faces_of(&expected));
    }
}
