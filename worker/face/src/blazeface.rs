//! BlazeFace, the full-range model: detects faces anywhere in a frame and gives their rough boxes.
//!
//! | tensor | shape | meaning |
//! |---|---|---|
//! | input | `(1, 192, 192, 3)` | frame letterboxed to a square, black border, `colour / 127.5 - 1` |
//! | regressors | `(1, 2304, 16)` | box centre and size, then six key points, in input pixels relative to the anchor |
//! | classifiers | `(1, 2304, 1)` | logit of the score |
//!
//! The anchors are the centres of a grid of 48 x 48 cells. The weights come from MediaPipe, see
//! `weights/PROVENANCE.md`.

use latentfarm_common::frame::Rgb;

use super::error::FaceError;
use super::geometry::Rect;
use super::network::{self, Network};
use super::sample::{Border, SIDE, Square};

/// The `.tflite` file of the network.
pub(super) const WEIGHTS: &[u8] = include_bytes!("../weights/face_detection_full_range.tflite");

const NAME: &str = "face detector";
/// Cells along each side of the grid of anchors.
const GRID: usize = 48;
/// Regressed values of one anchor.
const VALUES: usize = 16;
/// Candidates with a lower score are dropped before non-maximum suppression; the caller's limit is higher.
const MIN_SCORE: f32 = 0.5;
/// Candidates whose intersection over union with the best one is larger are merged into it.
const NMS_IOU: f32 = 0.3;

/// A detected face, in frame pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Detection {
    pub(super) score: f32,
    pub(super) area: Rect,
    /// Centres of the eyes: the left one in the picture, then the right one.
    pub(super) eyes: [[f32; 2]; 2],
}

/// The network, ready to run.
#[derive(Debug)]
pub(super) struct Detector {
    network: Network,
}

impl Detector {
    pub(super) fn new() -> Result<Self, FaceError> {
        let network = network::network(NAME, WEIGHTS, &[GRID * GRID * VALUES, GRID * GRID])?;
        Ok(Self { network })
    }

    /// Runs the network on a prepared input and returns its raw outputs.
    pub(super) fn infer(&self, input: Vec<f32>) -> Result<Vec<Vec<f32>>, FaceError> {
        self.network.run(input)
    }

    /// Returns the faces that score at least `min_score`, the best first.
    pub(super) fn detect(&self, frame: &Rgb, min_score: f32) -> Result<Vec<Detection>, FaceError> {
        let square = letterbox(frame);
        let outputs = self.infer(square.sample(frame, Border::Black, 1.0 / 127.5, -1.0))?;
        let mut merged = weighted_nms(decode(&outputs[0], &outputs[1]));
        merged.retain(|candidate| candidate.score >= min_score);
        Ok(merged.iter().map(|candidate| candidate.place(square)).collect())
    }
}

/// Returns the smallest centred square around the frame.
fn letterbox(frame: &Rgb) -> Square {
    let (width, height) = (frame.width as f32, frame.height as f32);
    let side = width.max(height);
    let step = side / SIDE as f32;
    Square {
        origin: [(width - side) / 2.0, (height - side) / 2.0],
        across: [step, 0.0],
        down: [0.0, step],
    }
}

/// A face before non-maximum suppression: left, top, right, bottom and the two eyes, in input pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    score: f32,
    values: [f32; 8],
}

impl Candidate {
    fn area(&self) -> Rect {
        let [left, top, right, bottom, ..] = self.values;
        Rect {
            left,
            top,
            right,
            bottom,
        }
    }

    /// Converts the places from input pixels to frame pixels.
    fn place(&self, square: Square) -> Detection {
        let v = &self.values;
        let [left, top] = square.to_frame([v[0], v[1]]);
        let [right, bottom] = square.to_frame([v[2], v[3]]);
        Detection {
            score: self.score,
            area: Rect {
                left,
                top,
                right,
                bottom,
            },
            eyes: [square.to_frame([v[4], v[5]]), square.to_frame([v[6], v[7]])],
        }
    }
}

/// Decodes the outputs of all anchors and drops those with a low score.
fn decode(regressors: &[f32], logits: &[f32]) -> Vec<Candidate> {
    let cell = SIDE as f32 / GRID as f32;
    let decode = |(index, (raw, logit)): (usize, (&[f32], &f32))| {
        let score = 1.0 / (1.0 + (-logit.clamp(-100.0, 100.0)).exp());
        let x = ((index % GRID) as f32 + 0.5) * cell;
        let y = ((index / GRID) as f32 + 0.5) * cell;
        let (cx, cy, half_w, half_h) = (x + raw[0], y + raw[1], raw[2] / 2.0, raw[3] / 2.0);
        let eyes = [x + raw[4], y + raw[5], x + raw[6], y + raw[7]];
        let values = [
            cx - half_w,
            cy - half_h,
            cx + half_w,
            cy + half_h,
            eyes[0],
            eyes[1],
            eyes[2],
            eyes[3],
        ];
        Candidate { score, values }
    };
    let all = regressors
        .chunks_exact(VALUES)
        .zip(logits)
        .enumerate()
        .map(decode);
    all.filter(|candidate| candidate.score >= MIN_SCORE).collect()
}

/// Weighted non-maximum suppression: each group of overlapping candidates becomes one, with the best score
/// and the mean of the places weighted by score.
fn weighted_nms(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut merged = Vec::new();
    while let Some(&best) = candidates.first() {
        let near = |other: &Candidate| best.area().iou(&other.area()) > NMS_IOU;
        let (group, rest): (Vec<_>, Vec<_>) = candidates.into_iter().partition(near);
        candidates = rest;
        let total: f32 = group.iter().map(|one| one.score).sum();
        if group.is_empty() {
            // A box without area overlaps nothing, not even itself.
            candidates.remove(0);
            continue;
        }
        let mean = |i: usize| group.iter().map(|one| one.score * one.values[i]).sum::<f32>() / total;
        merged.push(Candidate {
            score: best.score,
            values: std::array::from_fn(mean),
        });
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_candidates_become_one_weighted_mean() {
        let at = |score, x: f32| Candidate {
            score,
            values: [x, 0.0, x + 10.0, 10.0, x + 3.0, 3.0, x + 7.0, 3.0],
        };
        let merged = weighted_nms(vec![at(0.6, 2.0), at(0.9, 0.0), at(0.7, 50.0)]);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0].score.to_bits(), 0.9_f32.to_bits());
        assert!((merged[0].values[0] - 0.8).abs() < 1e-5, "{:?}", merged[0]);
        assert_eq!(merged[1].score.to_bits(), 0.7_f32.to_bits());
    }

    #[test]
    fn a_candidate_without_area_is_dropped() {
        assert!(
            weighted_nms(vec![Candidate {
                score: 0.9,
                values: [5.0; 8]
            }])
            .is_empty()
        );
    }
}
