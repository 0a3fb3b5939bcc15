//! BlazeFace, full range: faces anywhere in a frame, roughly placed.
//!
//! | tensor | shape | meaning |
//! |---|---|---|
//! | input | `(1, 192, 192, 3)` | frame letterboxed to a square, black border, `colour / 127.5 - 1` |
//! | regressors | `(1, 2304, 16)` | box centre and size, six key points, in 192nds relative to the anchor |
//! | classifiers | `(1, 2304, 1)` | logit of the score |
//!
//! Anchors are the centres of a 48 x 48 grid.

use latentfarm_common::frame::Rgb;

use super::error::FaceError;
use super::geometry::Rect;
use super::network::{self, Network};
use super::sample::{Border, SIDE, Square};

pub(super) const WEIGHTS: &[u8] = include_bytes!("weights/face_detection_full_range.tflite");

const NAME: &str = "face detector";
const GRID: usize = 48;
const VALUES: usize = 16;
/// Candidates below this take no part; the caller's bar is higher.
const MIN_SCORE: f32 = 0.5;
/// Candidates that overlap the best one by more than this are merged into it.
const MERGE_OVERLAP: f32 = 0.3;

/// A face as the detector sees it, in frame pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Detection {
    pub(super) score: f32,
    pub(super) area: Rect,
    /// Left and right as in the picture.
    pub(super) eyes: [[f32; 2]; 2],
}

#[derive(Debug)]
pub(super) struct Detector {
    network: Network,
}

impl Detector {
    pub(super) fn new() -> Result<Self, FaceError> {
        let network = network::network(NAME, WEIGHTS, &[GRID * GRID * VALUES, GRID * GRID])?;
        Ok(Self { network })
    }

    /// Raw outputs for a prepared input.
    pub(super) fn infer(&self, input: Vec<f32>) -> Result<Vec<Vec<f32>>, FaceError> {
        self.network.run(input)
    }

    /// Faces that score at least `min_score`, best first.
    pub(super) fn detect(&self, frame: &Rgb, min_score: f32) -> Result<Vec<Detection>, FaceError> {
        let square = letterbox(frame);
        let outputs = self.infer(square.cut(frame, Border::Black, 1.0 / 127.5, -1.0))?;
        let mut merged = merge(decode(&outputs[0], &outputs[1]));
        merged.retain(|candidate| candidate.score >= min_score);
        Ok(merged.iter().map(|candidate| candidate.place(square)).collect())
    }
}

/// The smallest square around the frame, centred.
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

/// Corners (left, top, right, bottom) and the two eyes, in network pixels.
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

/// Merges overlapping candidates: the best one's score, the mean of the group's places weighted by score.
fn merge(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut merged = Vec::new();
    while let Some(&best) = candidates.first() {
        let near = |other: &Candidate| best.area().overlap(&other.area()) > MERGE_OVERLAP;
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
        let merged = merge(vec![at(0.6, 2.0), at(0.9, 0.0), at(0.7, 50.0)]);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0].score.to_bits(), 0.9_f32.to_bits());
        assert!((merged[0].values[0] - 0.8).abs() < 1e-5, "{:?}", merged[0]);
        assert_eq!(merged[1].score.to_bits(), 0.7_f32.to_bits());
    }

    #[test]
    fn a_candidate_without_area_is_dropped() {
        assert!(
            merge(vec![Candidate {
                score: 0.9,
                values: [5.0; 8]
            }])
            .is_empty()
        );
    }
}
