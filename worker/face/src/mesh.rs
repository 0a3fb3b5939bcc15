//! FaceMesh: finds 468 points of one face, given roughly where the face is.
//!
//! | tensor | shape | meaning |
//! |---|---|---|
//! | input | `(1, 192, 192, 3)` | square around the face, eyes level, edge repeated, `colour / 255` |
//! | points | `(1, 1, 1, 1404)` | 468 times x, y, z in pixels of the input |
//! | presence | `(1, 1, 1, 1)` | logit of the probability that the square shows a face |
//!
//! The weights come from MediaPipe, see `weights/PROVENANCE.md`.

use latentfarm_common::frame::Rgb;

use super::blazeface::Detection;
use super::error::FaceError;
use super::geometry::Rect;
use super::network::{self, Network};
use super::sample::{Border, SIDE, Square};

/// The `.tflite` file of the network.
pub(super) const WEIGHTS: &[u8] = include_bytes!("../weights/face_landmark.tflite");

const NAME: &str = "face mesh";
const POINTS: usize = 468;
/// Side of the square around a face, over the longer side of its box.
const MARGIN: f32 = 1.5;

/// A rotated square in which the network looks for a face.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Region {
    centre: [f32; 2],
    side: f32,
    /// Rotation in radians, positive from x towards y.
    angle: f32,
}

impl Region {
    fn new(area: &Rect, [left, right]: [[f32; 2]; 2]) -> Self {
        Self {
            centre: area.centre(),
            side: area.width().max(area.height()) * MARGIN,
            angle: (right[1] - left[1]).atan2(right[0] - left[0]),
        }
    }

    /// Returns the square around a detected face, level with its eyes.
    pub(super) fn of_detection(detection: &Detection) -> Self {
        Self::new(&detection.area, detection.eyes)
    }

    fn square(&self) -> Square {
        let step = self.side / SIDE as f32;
        let (sin, cos) = self.angle.sin_cos();
        let (across, down) = ([step * cos, step * sin], [-step * sin, step * cos]);
        let half = SIDE as f32 / 2.0;
        let origin = std::array::from_fn(|i| self.centre[i] - half * (across[i] + down[i]));
        Square { origin, across, down }
    }
}

/// The points of a face, in frame pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mesh {
    pub(super) points: Vec<[f32; 2]>,
    /// Probability that this is a face, in 0..=1.
    pub(super) presence: f32,
}

impl Mesh {
    /// Returns the box around the points.
    pub(super) fn area(&self) -> Rect {
        Rect::around(&self.points)
    }

    /// Returns the square in which the face is expected in the next frame: around the points, level with the
    /// outer corners of the eyes.
    pub(super) fn region(&self) -> Region {
        Region::new(&self.area(), [self.points[33], self.points[263]])
    }

    /// Returns the centres of the left brow, the right brow and the nose, as the alignment template defines
    /// them.
    ///
    /// The template was made for the 106-point layout, in which the points of a brow run along its middle.
    /// The mesh has an upper and a lower row, which are mixed here so that the centre agrees with that of the
    /// 68-point layout.
    pub(super) fn alignment_points(&self) -> [[f32; 2]; 3] {
        let at = |i: usize| self.points[i];
        let mix = |a: [f32; 2], b: [f32; 2], share: f32| -> [f32; 2] {
            std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
        };
        let brow =
            |upper: [usize; 5], lower: [usize; 5]| mix(mean(&upper.map(at)), mean(&lower.map(at)), 0.25);
        let bridge = mix(at(5), at(195), 0.4);
        [
            brow([70, 63, 105, 66, 107], [46, 53, 52, 65, 55]),
            brow([336, 296, 334, 293, 300], [285, 295, 282, 283, 276]),
            mean(&[bridge, at(4), at(129), at(358)]),
        ]
    }
}

fn mean(points: &[[f32; 2]]) -> [f32; 2] {
    std::array::from_fn(|i| points.iter().map(|p| p[i]).sum::<f32>() / points.len() as f32)
}

/// The network, ready to run.
#[derive(Debug)]
pub(super) struct Landmarker {
    network: Network,
}

impl Landmarker {
    pub(super) fn new() -> Result<Self, FaceError> {
        let network = network::network(NAME, WEIGHTS, &[POINTS * 3, 1])?;
        Ok(Self { network })
    }

    /// Runs the network on a prepared input and returns its raw outputs.
    pub(super) fn infer(&self, input: Vec<f32>) -> Result<Vec<Vec<f32>>, FaceError> {
        self.network.run(input)
    }

    /// Finds the points of the face in a square of the frame.
    pub(super) fn mesh(&self, frame: &Rgb, region: &Region) -> Result<Mesh, FaceError> {
        let square = region.square();
        let outputs = self.infer(square.sample(frame, Border::Repeat, 1.0 / 255.0, 0.0))?;
        let points = outputs[0]
            .chunks_exact(3)
            .map(|p| square.to_frame([p[0], p[1]]))
            .collect();
        Ok(Mesh {
            points,
            presence: 1.0 / (1.0 + (-outputs[1][0]).exp()),
        })
    }
}
