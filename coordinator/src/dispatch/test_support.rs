//! Made-up face observations, for the tests of this module and of the whole dispatcher.

use latentfarm_common::lip_sync::LipOpening;
use latentfarm_common::wire::outcome::{FaceObservation, FrameObservation};

/// Observations of one face at the horizontal position `x` in every frame.
pub fn observations(frames: u64, x: f32) -> Vec<FrameObservation> {
    let face = FaceObservation {
        bbox: [x, 100.0, 60.0, 60.0],
        score: 0.9,
        points: [[x + 10.0, 110.0], [x + 50.0, 110.0], [x + 30.0, 130.0]],
        lips: LipOpening(50),
    };
    let frame = FrameObservation {
        cut: false,
        faces: vec![face],
    };
    (0..frames).map(|_| frame.clone()).collect()
}
