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
use latentfarm_common::lip_sync::LipOpening;

use super::blazeface::Detection;
use super::error::FaceError;
use super::geometry::Rect;
use super::mask::PixelRect;
use super::network::{self, Network};
use super::sample::{Border, SIDE, Square};
use latentfarm_common::affine::{invert, transform};
use latentfarm_common::align;

/// The `.tflite` file of the network.
pub(super) const WEIGHTS: &[u8] = include_bytes!("../weights/face_landmark.tflite");

const NAME: &str = "face mesh";
const POINTS: usize = 468;
/// Smallest presence of a face that counts; below it a tracked face is lost.
const MIN_PRESENCE: f32 = 0.5;
/// Side of the square around a face, over the longer side of its box.
const MARGIN: f32 = 1.5;

/// The distance of the brows in the alignment template, in its units.
const TEMPLATE_BROWS: f64 = 41.0;
/// The centre of the box around the points of an aligned face and its longer side, in the template's units. They are
/// means over the clips of real faces that the tests use.
const MESH_CENTRE: [f64; 2] = [37.0, 43.4];
const MESH_SIDE: f64 = 84.0;

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

    /// Returns the square in which a face that `to_face` aligns for crops of `resolution` pixels is expected,
    /// in frame pixels; `None` if the matrix has no inverse.
    pub(super) fn of_aligned(to_face: &[f32; 6], resolution: u32) -> Option<Self> {
        let to_frame = invert(to_face)?;
        let [left, right, _nose] = align::template(resolution);
        let unit = (right[0] - left[0]) / TEMPLATE_BROWS;
        let frame = |[x, y]: [f64; 2]| transform(&to_frame, x * unit, y * unit);
        let (centre, beside) = (frame(MESH_CENTRE), frame([MESH_CENTRE[0] + 1.0, MESH_CENTRE[1]]));
        let (across, down) = (beside[0] - centre[0], beside[1] - centre[1]);
        #[expect(clippy::cast_possible_truncation, reason = "pixels of a frame")]
        let narrow = |value: f64| value as f32;
        Some(Self {
            centre: centre.map(narrow),
            side: narrow(across.hypot(down) * MESH_SIDE) * MARGIN,
            angle: narrow(down.atan2(across)),
        })
    }

    /// Returns the square around a detected face, level with its eyes.
    pub(super) fn of_detection(detection: &Detection) -> Self {
        Self::new(&detection.area, detection.eyes)
    }

    /// Whether the middles of both squares lie within this share of the other's side.
    pub(super) fn is_near(&self, other: &Self, share: f32) -> bool {
        distance(self.centre, other.centre) < share * other.side
    }

    /// Returns the part of a picture of this size that is sampled, with even bounds; it is empty for a square
    /// outside the picture.
    pub(super) fn sampled_part(&self, [width, height]: [usize; 2]) -> PixelRect {
        let square = self.square();
        let side = SIDE as f32;
        let corners = [[0.0, 0.0], [side, 0.0], [0.0, side], [side, side]].map(|at| square.to_frame(at));
        let around = Rect::around(&corners);
        // A bilinear sample reads two pixels, and one more makes each bound even.
        let bounds = |low: f32, high: f32, size: usize| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to the picture"
            )]
            let whole = |value: f32| value.clamp(0.0, size as f32) as usize;
            let start = whole(low - 3.0) / 2 * 2;
            (
                start,
                (whole(high + 3.0).next_multiple_of(2))
                    .min(size / 2 * 2)
                    .max(start),
            )
        };
        let (left, right) = bounds(around.left, around.right, width);
        let (top, bottom) = bounds(around.top, around.bottom, height);
        PixelRect {
            left,
            top,
            width: right - left,
            height: bottom - top,
        }
    }

    /// Returns the same square in a picture that begins at another pixel.
    pub(super) fn shifted(self, left: usize, top: usize) -> Self {
        let [x, y] = self.centre;
        Self {
            centre: [x - left as f32, y - top as f32],
            ..self
        }
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
    /// Whether the network takes it for a face.
    pub(super) fn is_face(&self) -> bool {
        self.presence >= MIN_PRESENCE
    }

    /// Returns the box around the points.
    pub(super) fn area(&self) -> Rect {
        Rect::around(&self.points)
    }

    /// Returns the square in which the face is expected in the next frame: around the points, level with the
    /// outer corners of the eyes.
    pub(super) fn region(&self) -> Region {
        Region::new(&self.area(), [self.points[33], self.points[263]])
    }

    /// Returns the mean gap between the inner lips in the middle third of the mouth, over the distance of the
    /// centres of the eyes.
    pub(super) fn lip_opening(&self) -> LipOpening {
        let at = |i: usize| self.points[i];
        let gaps = [(13, 14), (82, 87), (312, 317)].map(|(upper, lower)| distance(at(upper), at(lower)));
        let eyes = distance(mean(&[33, 133].map(at)), mean(&[362, 263].map(at)));
        LipOpening::from_share(gaps.iter().sum::<f32>() / 3.0 / eyes)
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

fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
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
