//! FaceMesh: 468 points of one face, given roughly where it is.
//!
//! | tensor | shape | meaning |
//! |---|---|---|
//! | input | `(1, 192, 192, 3)` | square around the face, eyes level, edge repeated, `colour / 255` |
//! | points | `(1, 1, 1, 1404)` | 468 times x, y, z in pixels of the input |
//! | flag | `(1, 1, 1, 1)` | logit of "this is a face" |

use latentfarm_common::frame::Rgb;

use super::blazeface::Detection;
use super::error::FaceError;
use super::geometry::Rect;
use super::network::{self, Network};
use super::sample::{Border, SIDE, Square};

pub(super) const WEIGHTS: &[u8] = include_bytes!("weights/face_landmark.tflite");

const NAME: &str = "face mesh";
const POINTS: usize = 468;
/// Side of the square over the longer side of the face's box.
const MARGIN: f32 = 1.5;

/// Where to look for a face: a square, turned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Region {
    centre: [f32; 2],
    side: f32,
    /// Radians, positive from x towards y.
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

/// A face found, in frame pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mesh {
    pub(super) points: Vec<[f32; 2]>,
    /// How sure the network is that this is a face, 0..=1.
    pub(super) flag: f32,
}

impl Mesh {
    pub(super) fn area(&self) -> Rect {
        Rect::around(&self.points)
    }

    /// Where the face will be in the next frame, near enough: around the points, outer eye corners level.
    pub(super) fn region(&self) -> Region {
        Region::new(&self.area(), [self.points[33], self.points[263]])
    }

    /// Left brow, right brow and nose centre as the alignment template means them.
    ///
    /// The template was made for the 106-point layout, where a brow's points run along its middle; the mesh
    /// has an upper and a lower row, mixed here so that the centre agrees with the 68-point layout's.
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

#[derive(Debug)]
pub(super) struct Landmarker {
    network: Network,
}

impl Landmarker {
    pub(super) fn new() -> Result<Self, FaceError> {
        let network = network::network(NAME, WEIGHTS, &[POINTS * 3, 1])?;
        Ok(Self { network })
    }

    /// Raw outputs for a prepared input.
    pub(super) fn infer(&self, input: Vec<f32>) -> Result<Vec<Vec<f32>>, FaceError> {
        self.network.run(input)
    }

    pub(super) fn mesh(&self, frame: &Rgb, region: &Region) -> Result<Mesh, FaceError> {
        let square = region.square();
        let outputs = self.infer(square.cut(frame, Border::Repeat, 1.0 / 255.0, 0.0))?;
        let points = outputs[0]
            .chunks_exact(3)
            .map(|p| square.to_frame([p[0], p[1]]))
            .collect();
        Ok(Mesh {
            points,
            flag: 1.0 / (1.0 + (-outputs[1][0]).exp()),
        })
    }
}
