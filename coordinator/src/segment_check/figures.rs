//! How an output picture differs from the source picture that it shows: outside the face, where nothing but the encoder
//! may have changed it, and within, where the model painted it anew.

use latentfarm_common::affine::{invert, transform};
use latentfarm_common::align::face_size;
use latentfarm_common::frame::Picture;
use latentfarm_common::wire::task::RenderFrame;

/// Side of the blocks that are compared outside the face, in pixels. The mean of a block does not show the encoder's noise.
const BLOCK: usize = 8;
/// The soft edge of a pasted face reaches this far beyond the face, as a share of its size.
const EDGE: f64 = 0.15;
/// A face is sampled at so many columns and rows.
const LATTICE: (usize, usize) = (40, 54);
/// Brows and eyes, as shares of the width and the height of the aligned face: left, right, top, bottom.
const UPPER: [f64; 4] = [0.15, 0.85, 0.05, 0.35];
/// The mouth and what moves with it.
const MOUTH: [f64; 4] = [0.2, 0.8, 0.48, 0.86];

/// The figures of one frame.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FrameFigures {
    /// The number of the output frame.
    pub(super) frame: u64,
    /// Outside the face; `None` if the face fills the picture.
    pub(super) outside: Option<Outside>,
    /// Within the face; `None` if no mouth was rendered, or if the face lies off the picture.
    pub(super) face: Option<FaceFigures>,
}

/// The difference outside the face, in levels of 8-bit luma.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outside {
    /// The mean difference of the means of blocks.
    pub(super) blocks: f64,
    /// The largest difference of the means of two blocks.
    pub(super) worst_block: f64,
    /// The mean difference of pixels, which is what the encoder leaves.
    pub(super) pixels: f64,
}

/// The difference within the face, in levels of 8-bit luma unless it says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FaceFigures {
    /// The mean difference of pixels at brows and eyes.
    pub(super) upper: f64,
    /// The mean difference of pixels at the mouth.
    pub(super) mouth: f64,
    /// How much brighter the mouth is on average; negative if it is darker.
    pub(super) luma_shift: f64,
    /// The larger of the two shifts of chroma at the mouth, in levels of 8-bit chroma.
    pub(super) chroma_shift: f64,
    /// The difference of neighbouring pixels at the mouth, as a multiple of the source's.
    pub(super) detail: f64,
    /// The standard deviation of the pixels at the mouth, as a multiple of the source's.
    pub(super) spread: f64,
    /// The output's luma at the mouth, sampled at fixed places of the face.
    pub(super) samples: Vec<u8>,
}

/// Measures the picture of output frame `number` against the source picture that it shows.
pub(super) fn measure(
    number: u64,
    frame: &RenderFrame,
    resolution_px: u32,
    source: &Picture,
    output: &Picture,
) -> FrameFigures {
    let face = frame.face.filter(|_| frame.is_rendered());
    let placed = face.and_then(|matrix| PlacedFace::new(&matrix, resolution_px));
    FrameFigures {
        frame: number,
        outside: outside(placed.as_ref(), source, output),
        face: placed.and_then(|placed| within(&placed, source, output)),
    }
}

/// A face and where it lies in the frame.
struct PlacedFace {
    /// From pixels of the frame to pixels of the aligned face.
    to_face: [f64; 6],
    to_frame: [f64; 6],
    /// Width and height of the aligned face.
    size: [f64; 2],
}

impl PlacedFace {
    /// `None` if the matrix has no inverse: nothing is pasted then.
    fn new(matrix: &[f32; 6], resolution_px: u32) -> Option<Self> {
        let (width, height) = face_size(resolution_px);
        Some(Self {
            to_face: matrix.map(f64::from),
            to_frame: invert(matrix)?,
            size: [width as f64, height as f64],
        })
    }

    /// Whether pasting the face may have changed the pixel.
    fn may_touch(&self, x: f64, y: f64) -> bool {
        let at = transform(&self.to_face, x, y);
        let inside = -EDGE..=1.0 + EDGE;
        at.iter()
            .zip(self.size)
            .all(|(at, size)| inside.contains(&(at / size)))
    }

    /// The pixels of the frame at the places of the lattice within a part of the face, row by row; `None` for those off
    /// the picture.
    fn lattice(&self, part: [f64; 4], picture: &Picture) -> Vec<Option<(usize, usize)>> {
        let [left, right, top, bottom] = part;
        let steps = |count: usize, low: f64, high: f64| {
            (0..count)
                .map(move |step| (step as f64 + 0.5) / count as f64)
                .filter(move |at| (low..high).contains(at))
        };
        let place = |column: f64, row: f64| {
            let at = transform(&self.to_frame, column * self.size[0], row * self.size[1]);
            let width = f64::from(picture.format.width) - 1.0;
            let height = f64::from(picture.format.height) - 1.0;
            let is_inside = (1.0..width).contains(&at[0]) && (1.0..height).contains(&at[1]);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "within the picture"
            )]
            is_inside.then(|| (at[0] as usize, at[1] as usize))
        };
        let rows = steps(LATTICE.1, top, bottom);
        rows.flat_map(|row| steps(LATTICE.0, left, right).map(move |column| place(column, row)))
            .collect()
    }
}

/// Compares what lies outside the face, or the whole picture if there is none.
fn outside(face: Option<&PlacedFace>, source: &Picture, output: &Picture) -> Option<Outside> {
    let (width, height) = (output.format.width as usize, output.format.height as usize);
    let (mut blocks, mut sum, mut worst, mut pixels) = (0_u32, 0.0_f64, 0.0_f64, 0_u64);
    for top in (0..height - height % BLOCK).step_by(BLOCK) {
        for left in (0..width - width % BLOCK).step_by(BLOCK) {
            // A face is far larger than a block, so that it touches one only if it touches a corner.
            let corners = [
                (left, top),
                (left + BLOCK, top),
                (left, top + BLOCK),
                (left + BLOCK, top + BLOCK),
            ];
            let touches =
                |face: &PlacedFace| corners.iter().any(|(x, y)| face.may_touch(*x as f64, *y as f64));
            if face.is_some_and(touches) {
                continue;
            }
            let (mut signed, mut absolute) = (0_i64, 0_u64);
            for row in top..top + BLOCK {
                let span = row * width + left..row * width + left + BLOCK;
                for (old, new) in source.y[span.clone()].iter().zip(&output.y[span]) {
                    signed += i64::from(*new) - i64::from(*old);
                    absolute += u64::from(new.abs_diff(*old));
                }
            }
            let difference = (signed as f64 / (BLOCK * BLOCK) as f64).abs();
            blocks += 1;
            sum += difference;
            worst = worst.max(difference);
            pixels += absolute;
        }
    }
    let count = f64::from(blocks);
    (blocks > 0).then(|| Outside {
        blocks: sum / count,
        worst_block: worst,
        pixels: pixels as f64 / (count * (BLOCK * BLOCK) as f64),
    })
}

fn within(face: &PlacedFace, source: &Picture, output: &Picture) -> Option<FaceFigures> {
    let width = output.format.width as usize;
    let upper: Vec<(usize, usize)> = face.lattice(UPPER, output).into_iter().flatten().collect();
    let lattice = face.lattice(MOUTH, output);
    let mouth: Vec<(usize, usize)> = lattice.iter().copied().flatten().collect();
    if upper.len() < 16 || mouth.len() < lattice.len() / 2 {
        return None;
    }
    let luma = |picture: &Picture, (x, y): (usize, usize)| f64::from(picture.y[y * width + x]);
    let difference = |at: &(usize, usize)| (luma(output, *at) - luma(source, *at)).abs();
    let chroma = |plane: &[u8], (x, y): (usize, usize)| f64::from(plane[y / 2 * (width / 2) + x / 2]);
    let chroma_shift =
        |old: &[u8], new: &[u8]| mean(mouth.iter().map(|at| chroma(new, *at) - chroma(old, *at))).abs();
    let detail = |picture: &Picture| {
        let right = |at: &(usize, usize)| (luma(picture, *at) - luma(picture, (at.0 + 1, at.1))).abs();
        let below = |at: &(usize, usize)| (luma(picture, *at) - luma(picture, (at.0, at.1 + 1))).abs();
        mean(mouth.iter().map(|at| right(at) + below(at)))
    };
    let spread = |picture: &Picture| {
        let centre = mean(mouth.iter().map(|at| luma(picture, *at)));
        mean(mouth.iter().map(|at| (luma(picture, *at) - centre).powi(2))).sqrt()
    };
    // Half a level keeps the ratio finite where the source is flat.
    let ratio = |of: &dyn Fn(&Picture) -> f64| (of(output) + 0.5) / (of(source) + 0.5);
    let sample = |at: &Option<(usize, usize)>| at.map_or(0, |(x, y)| output.y[y * width + x]);
    Some(FaceFigures {
        upper: mean(upper.iter().map(difference)),
        mouth: mean(mouth.iter().map(difference)),
        luma_shift: mean(mouth.iter().map(|at| luma(output, *at) - luma(source, *at))),
        chroma_shift: chroma_shift(&source.u, &output.u).max(chroma_shift(&source.v, &output.v)),
        detail: ratio(&detail),
        spread: ratio(&spread),
        samples: lattice.iter().map(sample).collect(),
    })
}

/// The mean of some values; 0 if there are none.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0_u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}
