//! The soft mask with which a face is pasted back into its frame, computed in the bounding rectangle of the
//! face only.
//!
//! | step | plane | name in the reference | how it is made |
//! |---|---|---|---|
//! | 1 | `inverse` | `inv_mask` | a face of ones warped into the frame, 0 outside |
//! | 2 | `eroded` | `inv_mask_erosion` | the minimum over 2 x 2 pixels (offsets -1 and 0) |
//! | 3 | `centre` | `inv_mask_center` | the minimum over (2 edge) x (2 edge) pixels (offsets -edge to edge - 1) |
//! | 4 | `soft` | `inv_soft_mask` | a Gaussian blur over 2 edge + 1 pixels that reflects at the border of the frame |
//!
//! `edge` is a twentieth of the square root of the face's area in the frame. Pixels outside the frame do not
//! count in minima. Each plane equals that of the whole frame, because outside the rectangle all four are 0.

use latentfarm_common::affine::{invert, transform};

use crate::warp::{bilinear, bilinear_taps};

/// A rectangle of whole pixels of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PixelRect {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

impl PixelRect {
    /// Returns the pixels that an aligned face of `face` (width, height) may touch, and two more on each
    /// side. The rectangle is empty if the face lies off the frame or the matrix has no inverse.
    pub fn of_face(frame: [usize; 2], matrix: &[f32; 6], face: [usize; 2]) -> Self {
        const MARGIN: f64 = 2.0;
        let Some(to_frame) = invert(matrix) else {
            return Self::default();
        };
        // The face touches a pixel whose place in the face is less than one pixel outside of it.
        let (right, bottom) = (face[0] as f64, face[1] as f64);
        let corners = [[-1.0, -1.0], [right, -1.0], [-1.0, bottom], [right, bottom]]
            .map(|[x, y]| transform(&to_frame, x, y));
        let span = |axis: usize| {
            let places = corners.iter().map(|corner| corner[axis]);
            let low = places.clone().fold(f64::INFINITY, f64::min).floor() - MARGIN;
            let high = places.fold(f64::NEG_INFINITY, f64::max).ceil() + MARGIN + 1.0;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clipped to the frame"
            )]
            let clip = |at: f64| at.clamp(0.0, frame[axis] as f64) as usize;
            (clip(low), clip(high))
        };
        let ((left, right), (top, bottom)) = (span(0), span(1));
        Self {
            left,
            top,
            width: right - left,
            height: bottom - top,
        }
    }

    /// Whether it holds no pixel.
    pub fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }
}

/// The four planes of a mask, see the table above. Each is `area.height x area.width` with values in 0..=1.
#[derive(Clone, Debug)]
pub struct SoftMask {
    pub area: PixelRect,
    pub inverse: Vec<f32>,
    pub eroded: Vec<f32>,
    pub centre: Vec<f32>,
    pub soft: Vec<f32>,
    /// The sum of `eroded`, in pixels.
    pub face_area: f64,
    /// Width of the soft edge in pixels.
    pub edge: usize,
    /// Standard deviation of the blur in pixels.
    pub sigma: f32,
}

impl SoftMask {
    /// Computes the mask of a face of `face` (width, height) in a frame of `frame` (width, height). `area`
    /// must hold every pixel that the face touches, as [`PixelRect::of_face`] does.
    pub fn new(frame: [usize; 2], area: PixelRect, matrix: &[f32; 6], face: [usize; 2]) -> Self {
        let to_face = matrix.map(f64::from);
        let inner = face.map(|size| size as f64 - 1.0);
        let mut inverse = Vec::with_capacity(area.width * area.height);
        for y in area.top..area.top + area.height {
            for x in area.left..area.left + area.width {
                let at = transform(&to_face, x as f64, y as f64);
                inverse.push(
                    if (0.0..=inner[0]).contains(&at[0]) && (0.0..=inner[1]).contains(&at[1]) {
                        1.0
                    } else {
                        let (fraction, taps) = bilinear_taps(at, face[0], face[1]);
                        bilinear(fraction, taps.map(|at| if at.is_some() { 1.0 } else { 0.0 }))
                    },
                );
            }
        }
        let eroded = minimum(&inverse, area, 1, 0);
        let face_area: f64 = eroded.iter().copied().map(f64::from).sum();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an area is not negative"
        )]
        let edge = face_area.sqrt() as usize / 20;
        let centre = if edge == 0 {
            eroded.clone()
        } else {
            minimum(&eroded, area, edge, edge - 1)
        };
        let sigma = 0.3 * (edge as f64 - 1.0) + 0.8;
        let soft = blur(&centre, frame, area, &gaussian(edge, sigma));
        #[expect(clippy::cast_possible_truncation, reason = "a few pixels")]
        let sigma = sigma as f32;
        Self {
            area,
            inverse,
            eroded,
            centre,
            soft,
            face_area,
            edge,
            sigma,
        }
    }
}

/// Takes the minimum over offsets `-before..=after` along both axes, of the pixels in the rectangle.
///
/// Along each axis, passes give the minimum over 1, 2, 4 ... pixels from each pixel on; two of the longest
/// that fit cover all offsets.
fn minimum(plane: &[f32], area: PixelRect, before: usize, after: usize) -> Vec<f32> {
    let PixelRect { width, height, .. } = area;
    let span = before + after + 1;
    let longest = 1 << span.ilog2();
    let lower = |a: &mut [f32], b: &[f32]| {
        for (a, b) in a.iter_mut().zip(b) {
            *a = if *b < *a { *b } else { *a };
        }
    };
    // Each row is padded with `before` infinite values ahead and `after` behind.
    let mut rows = vec![0.0_f32; plane.len()];
    let mut padded = vec![0.0_f32; width + before + after];
    for (row, out) in plane
        .chunks_exact(width.max(1))
        .zip(rows.chunks_exact_mut(width.max(1)))
    {
        padded.fill(f32::INFINITY);
        padded[before..before + width].copy_from_slice(row);
        let mut len = 1;
        while len < longest {
            for at in 0..padded.len() - len {
                padded[at] = padded[at].min(padded[at + len]);
            }
            len *= 2;
        }
        out.copy_from_slice(&padded[..width]);
        lower(out, &padded[span - longest..]);
    }
    let mut padded = vec![f32::INFINITY; (height + before + after) * width];
    padded[before * width..(before + height) * width].copy_from_slice(&rows);
    let mut len = 1;
    while len < longest {
        for at in 0..height + before + after - len {
            let (head, tail) = padded.split_at_mut((at + len) * width);
            lower(&mut head[at * width..(at + 1) * width], &tail[..width]);
        }
        len *= 2;
    }
    for (at, out) in rows.chunks_exact_mut(width.max(1)).enumerate() {
        out.copy_from_slice(&padded[at * width..(at + 1) * width]);
        lower(
            out,
            &padded[(at + span - longest) * width..(at + span - longest + 1) * width],
        );
    }
    rows
}

/// Returns half of a Gaussian of 2 edge + 1 taps that sum to 1, the middle tap first.
fn gaussian(edge: usize, sigma: f64) -> Vec<f32> {
    let half: Vec<f64> = (0..=edge)
        .map(|i| (-((i * i) as f64) / (2.0 * sigma * sigma)).exp())
        .collect();
    let sum = half[0] + 2.0 * half[1..].iter().sum::<f64>();
    #[expect(clippy::cast_possible_truncation, reason = "the weights are applied in f32")]
    half.iter().map(|weight| (weight / sum) as f32).collect()
}

/// Returns where position `at` lies in a rectangle of `size` from `start` along one axis, after reflection at
/// the borders of a frame of `frame` pixels, which does not repeat the edge pixel. `None` means outside the
/// rectangle.
fn reflected(at: i64, start: usize, size: usize, frame: usize) -> Option<usize> {
    let last = i64::try_from(frame).ok()? - 1;
    if last == 0 {
        return Some(0);
    }
    let folded = at.rem_euclid(2 * last);
    let folded = usize::try_from(folded.min(2 * last - folded)).ok()?;
    folded.checked_sub(start).filter(|&at| at < size)
}

/// Blurs a plane with a symmetric kernel, of which `half` starts at the middle tap. Pixels outside the
/// rectangle are 0.
fn blur(plane: &[f32], frame: [usize; 2], area: PixelRect, half: &[f32]) -> Vec<f32> {
    let PixelRect { width, height, .. } = area;
    let radius = half.len() - 1;
    let places = |start: usize, size: usize, frame: usize| -> Vec<Option<usize>> {
        let first = i64::try_from(start).unwrap_or_default() - i64::try_from(radius).unwrap_or_default();
        (first..)
            .take(size + 2 * radius)
            .map(|at| reflected(at, start, size, frame))
            .collect()
    };
    let columns = places(area.left, width, frame[0]);
    let mut padded = vec![0.0_f32; width + 2 * radius];
    let mut rows = vec![0.0_f32; plane.len()];
    for (row, out) in plane
        .chunks_exact(width.max(1))
        .zip(rows.chunks_exact_mut(width.max(1)))
    {
        for (value, place) in padded.iter_mut().zip(&columns) {
            *value = place.map_or(0.0, |place| row[place]);
        }
        add_scaled(out, half[0], &padded[radius..], None);
        for (tap, weight) in half.iter().enumerate().skip(1) {
            add_scaled(
                out,
                *weight,
                &padded[radius - tap..],
                Some(&padded[radius + tap..]),
            );
        }
    }
    let lines = places(area.top, height, frame[1]);
    let zeros = vec![0.0_f32; width];
    let line = |at: usize| lines[at].map_or(zeros.as_slice(), |place| &rows[place * width..][..width]);
    let mut soft = vec![0.0_f32; plane.len()];
    for (y, out) in soft.chunks_exact_mut(width.max(1)).enumerate() {
        add_scaled(out, half[0], line(y + radius), None);
        for (tap, weight) in half.iter().enumerate().skip(1) {
            add_scaled(out, *weight, line(y + radius - tap), Some(line(y + radius + tap)));
        }
    }
    soft
}

/// Adds `weight * a`, or `weight * (a + b)`, to `out`.
fn add_scaled(out: &mut [f32], weight: f32, a: &[f32], b: Option<&[f32]>) {
    match b {
        None => out.iter_mut().zip(a).for_each(|(out, a)| *out += weight * a),
        Some(b) => out
            .iter_mut()
            .zip(a.iter().zip(b))
            .for_each(|(out, (a, b))| *out += weight * (a + b)),
    }
}

#[cfg(test)]
mod tests;
