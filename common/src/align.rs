//! Face alignment as LatentSync's `AlignRestore` does it: the template, the size of the aligned face, and the
//! similarity transform that maps three landmarks of a frame onto the template. All of it is pure `f64`
//! arithmetic.
//!
//! The three landmarks are, in this order, the centre of the left brow, the centre of the right brow (left
//! and right as in the picture) and the centre of the nose. They are in frame pixels, with whole numbers at
//! pixel centres. A matrix is 2 x 3, row-major (a b tx, c d ty), and maps frame pixels to pixels of the
//! aligned face: `x' = a x + b y + tx`, `y' = c x + d y + ty`.
//!
//! The coordinator calls [`Smoother`] while it builds the face track of a job: the smoother carries the one
//! value that passes from frame to frame, and a new one begins at every cut. Workers take [`face_size`] for
//! warping.

/// The three landmarks of the template at ratio 1, in pixels of a face of 75 x 100.
const TEMPLATE: [[f64; 2]; 3] = [[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]];

/// Weight of the previous offset in the smoothed offset.
const CARRIED: f64 = 0.2;

/// Returns the scale of the template for crops of `resolution` pixels: 2.8 at 256.
fn ratio(resolution: u32) -> f64 {
    f64::from(resolution) / 256.0 * 2.8
}

/// Returns the width and height in pixels of the aligned face, before it is resized to a square of
/// `resolution`: 210 x 280 at 256, 420 x 560 at 512.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive product of at most a few thousand is truncated on purpose"
)]
pub fn face_size(resolution: u32) -> (usize, usize) {
    // The reference truncates these very products of doubles. At some resolutions, 384 for example, they lie just below a
    // whole number that exact arithmetic would reach.
    let truncated = |side: f64| (side * ratio(resolution)) as usize;
    (truncated(75.0), truncated(100.0))
}

/// Returns the places of the three landmarks in the aligned face, in its pixels.
pub fn template(resolution: u32) -> [[f64; 2]; 3] {
    TEMPLATE.map(|[x, y]| [x * ratio(resolution), y * ratio(resolution)])
}

/// Computes the frame-to-face matrix of one frame without smoothing. The farm always smooths; tests compare
/// this matrix with the reference's.
///
/// Coincident points have no scale; they give a finite but useless matrix.
pub fn similarity(points: &[[f32; 2]; 3], resolution: u32) -> [f32; 6] {
    Fit::new(points, resolution).matrix([0.0, 0.0])
}

/// Computes the matrices of successive frames and smooths them over time.
///
/// Its state is the offset of the nose from its place in the template, both measured in standard deviations
/// of their points. Each frame's offset is blended with a fifth of the previous one. The blend is added to
/// the translation (in pixels of the aligned face, so that it moves the crop by a fraction of a pixel) and
/// becomes the new state.
///
/// The reference first rounds the landmarks to whole pixels, which adds 10 to 60 % jitter; here they are
/// taken as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Smoother {
    offset: Option<[f64; 2]>,
}

impl Smoother {
    /// Computes the frame-to-face matrix of the next frame.
    pub fn next(&mut self, points: &[[f32; 2]; 3], resolution: u32) -> [f32; 6] {
        let fit = Fit::new(points, resolution);
        let offset = match self.offset {
            None => fit.nose_offset,
            Some(last) => std::array::from_fn(|i| CARRIED * last[i] + (1.0 - CARRIED) * fit.nose_offset[i]),
        };
        self.offset = Some(offset);
        fit.matrix(offset)
    }

    /// Returns the smoothed offset (x, y) after the last frame, or `None` before the first.
    pub fn offset(&self) -> Option<[f64; 2]> {
        self.offset
    }
}

/// A similarity transform, given as rotation and scale about the centres of the two point sets.
struct Fit {
    cos: f64,
    sin: f64,
    from: [f64; 2],
    to: [f64; 2],
    nose_offset: [f64; 2],
}

impl Fit {
    fn new(points: &[[f32; 2]; 3], resolution: u32) -> Self {
        let source = Normalised::new(points.map(|[x, y]| [f64::from(x), f64::from(y)]));
        let target = Normalised::new(template(resolution));
        // This angle is the rotation that the singular value decomposition of the 2 x 2 covariance gives,
        // with the last singular vector flipped if the determinant is negative.
        let (mut dot, mut cross) = (0.0, 0.0);
        for (p, q) in source.points.iter().zip(&target.points) {
            dot += p[0] * q[0] + p[1] * q[1];
            cross += p[0] * q[1] - p[1] * q[0];
        }
        let angle = cross.atan2(dot);
        let scale = target.deviation / source.deviation;
        Self {
            cos: scale * angle.cos(),
            sin: scale * angle.sin(),
            from: source.centre,
            to: target.centre,
            nose_offset: std::array::from_fn(|i| target.points[2][i] - source.points[2][i]),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the matrix is stored as f32")]
    fn matrix(&self, bias: [f64; 2]) -> [f32; 6] {
        let &Self {
            cos, sin, from, to, ..
        } = self;
        let tx = to[0] - (cos * from[0] - sin * from[1]) + bias[0];
        let ty = to[1] - (sin * from[0] + cos * from[1]) + bias[1];
        [cos, -sin, tx, sin, cos, ty].map(|value| value as f32)
    }
}

/// Three points relative to their centre, divided by the unbiased standard deviation of all six coordinates.
struct Normalised {
    points: [[f64; 2]; 3],
    centre: [f64; 2],
    deviation: f64,
}

impl Normalised {
    fn new(points: [[f64; 2]; 3]) -> Self {
        let centre: [f64; 2] = std::array::from_fn(|i| points.iter().map(|p| p[i]).sum::<f64>() / 3.0);
        let centred = points.map(|p| [p[0] - centre[0], p[1] - centre[1]]);
        // The centred coordinates have mean 0, so the variance is the mean square, over 6 - 1.
        let square: f64 = centred.iter().flatten().map(|v| v * v).sum();
        let deviation = (square / 5.0).sqrt().max(1e-6);
        Self {
            points: centred.map(|p| p.map(|v| v / deviation)),
            centre,
            deviation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(m: &[f32; 6], [x, y]: [f32; 2]) -> [f32; 2] {
        [m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]]
    }

    /// The sizes are those of `int(75 * ratio), int(100 * ratio)` in Python, with `ratio = resolution / 256 * 2.8`.
    #[test]
    fn face_sizes_are_truncated_as_the_reference_truncates_them() {
        let sizes = [
            (64, (52, 70)),
            (96, (78, 104)),
            (128, (105, 140)),
            (192, (157, 209)),
            (256, (210, 280)),
            (384, (314, 419)),
            (448, (367, 489)),
            (512, (420, 560)),
            (768, (629, 839)),
            (1024, (840, 1120)),
        ];
        for (resolution, size) in sizes {
            assert_eq!(face_size(resolution), size, "at {resolution} px");
        }
    }

    #[test]
    fn a_moved_turned_and_scaled_template_goes_back_onto_the_template() {
        let (angle, scale) = (0.3_f32, 0.7_f32);
        #[expect(clippy::cast_possible_truncation, reason = "points are f32")]
        let target = template(256).map(|p| p.map(|v| v as f32));
        let points = target.map(|[x, y]| {
            [
                scale * (angle.cos() * x - angle.sin() * y) + 500.0,
                scale * (angle.sin() * x + angle.cos() * y) + 300.0,
            ]
        });
        let matrix = similarity(&points, 256);
        for (point, want) in points.iter().zip(&target) {
            let got = apply(&matrix, *point);
            assert!(
                (got[0] - want[0]).abs() < 1e-3 && (got[1] - want[1]).abs() < 1e-3,
                "{got:?} {want:?}"
            );
        }
    }

    #[test]
    fn a_mirrored_face_is_turned_and_not_mirrored() {
        let matrix = similarity(&[[300.0, 100.0], [200.0, 100.0], [250.0, 150.0]], 256);
        assert!(matrix[0] * matrix[4] - matrix[1] * matrix[3] > 0.0);
    }

    #[test]
    fn smoothing_keeps_a_fifth_of_the_last_offset() {
        let first = [[100.0, 100.0], [160.0, 102.0], [131.0, 131.0]];
        let second = [[101.0, 99.0], [161.0, 103.0], [130.0, 140.0]];
        let mut smoother = Smoother::default();
        smoother.next(&first, 256);
        let before = smoother.offset().unwrap();
        smoother.next(&second, 256);
        let after = smoother.offset().unwrap();
        let mut alone = Smoother::default();
        alone.next(&second, 256);
        let fresh = alone.offset().unwrap();
        for i in 0..2 {
            assert!((after[i] - (0.2 * before[i] + 0.8 * fresh[i])).abs() < 1e-12);
        }
    }

    #[test]
    fn coincident_points_give_a_finite_matrix() {
        let matrix = similarity(&[[50.0, 50.0]; 3], 256);
        assert!(matrix.iter().all(|v| v.is_finite()));
    }
}
