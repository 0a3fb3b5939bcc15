//! Detects shot boundaries by block matching between two neighbouring frames.

use latentfarm_common::frame::Rgb;

/// Width and height of a thumbnail in blocks.
const BLOCKS: [usize; 2] = [8, 6];
/// Side of a block in cells.
const BLOCK: usize = 8;
const WIDTH: usize = BLOCKS[0] * BLOCK;
const HEIGHT: usize = BLOCKS[1] * BLOCK;
/// Largest movement of a block from frame to frame along each axis, in cells.
const SEARCH_RANGE: usize = 6;
/// A frame begins a shot if at least this share of the contrast is left after block matching...
const MIN_SHARE: f32 = 0.5;
/// ...and the residual is at least this many luma levels, as a mean over all cells.
const MIN_RESIDUAL: f32 = 4.0;

/// A frame scaled down to 64 x 48 cells of mean luma.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Thumbnail {
    cells: Vec<f32>,
    /// Mean of the block that begins at each cell.
    means: Vec<f32>,
}

impl Thumbnail {
    pub(super) fn new(frame: &Rgb) -> Self {
        let span = |i: usize, cells: usize, size: usize| {
            let start = i * size / cells;
            start..((i + 1) * size / cells).max(start + 1).min(size.max(start + 1))
        };
        let mut cells = Vec::with_capacity(WIDTH * HEIGHT);
        for j in 0..HEIGHT {
            for i in 0..WIDTH {
                let columns = span(i, WIDTH, frame.width);
                let (mut sum, mut count) = (0_u64, 0_u64);
                for y in span(j, HEIGHT, frame.height) {
                    let row = &frame.data[(y * frame.width + columns.start) * 3..][..columns.len() * 3];
                    for pixel in row.chunks_exact(3) {
                        let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u64::from);
                        sum += 2 * r + 5 * g + b;
                    }
                    count += columns.len() as u64;
                }
                cells.push(sum as f32 / (8 * count) as f32);
            }
        }
        let means = block_means(&cells);
        Self { cells, means }
    }

    /// Whether this frame differs so much from the one before that it begins a shot.
    ///
    /// Each block of 8 x 8 cells is matched with the frame before, within 6 cells around its place. Blocks
    /// are compared without their means, so that pans, gestures and flashes leave a small residual. The frame
    /// begins a shot if the residual is at least half of the contrast of that frame of the two which has
    /// more, and at least 4 levels a cell. Fades and dissolves are gradual and begin no shot; a very fast pan
    /// may begin one.
    pub(super) fn starts_shot_after(&self, before: &Self) -> bool {
        let [residual, share] = self.residual(before);
        residual >= MIN_RESIDUAL && share >= MIN_SHARE
    }

    /// Returns the mean residual of a cell, and its share of the larger contrast. Both frames are matched
    /// with each other and the larger residual counts, because a flat picture matches any other.
    fn residual(&self, before: &Self) -> [f32; 2] {
        let residual = self.unmatched(before).max(before.unmatched(self));
        let most = self.contrast().max(before.contrast());
        [
            residual / (WIDTH * HEIGHT) as f32,
            if most > 0.0 { residual / most } else { 0.0 },
        ]
    }

    /// Returns the sum of the residuals of this frame's blocks after each is matched with the other frame.
    fn unmatched(&self, other: &Self) -> f32 {
        corners()
            .map(|corner| other.best_match(&self.block(corner), corner))
            .sum()
    }

    /// Returns the sum of the absolute values of all blocks without their means.
    fn contrast(&self) -> f32 {
        corners()
            .map(|corner| self.block(corner).iter().map(|value| value.abs()).sum::<f32>())
            .sum()
    }

    /// Returns the cells of a block without their mean.
    fn block(&self, [x, y]: [usize; 2]) -> [f32; BLOCK * BLOCK] {
        let mut block = [0.0; BLOCK * BLOCK];
        for (row, out) in block.chunks_exact_mut(BLOCK).enumerate() {
            out.copy_from_slice(&self.cells[(y + row) * WIDTH + x..][..BLOCK]);
        }
        let mean = self.means[y * WIDTH + x];
        block.map(|value| value - mean)
    }

    /// Returns the smallest sum of absolute differences between `block` and the blocks around `corner` here.
    fn best_match(&self, block: &[f32; BLOCK * BLOCK], corner: [usize; 2]) -> f32 {
        let range =
            |at: usize, size: usize| at.saturating_sub(SEARCH_RANGE)..=(at + SEARCH_RANGE).min(size - BLOCK);
        let mut best = f32::INFINITY;
        for y in range(corner[1], HEIGHT) {
            for x in range(corner[0], WIDTH) {
                let mut lanes = [0.0_f32; BLOCK];
                let other = self.block([x, y]);
                for (a, b) in block.chunks_exact(BLOCK).zip(other.chunks_exact(BLOCK)) {
                    for lane in 0..BLOCK {
                        lanes[lane] += (a[lane] - b[lane]).abs();
                    }
                }
                best = best.min(lanes.iter().sum());
            }
        }
        best
    }
}

fn corners() -> impl Iterator<Item = [usize; 2]> {
    (0..BLOCKS[1]).flat_map(|y| (0..BLOCKS[0]).map(move |x| [x * BLOCK, y * BLOCK]))
}

/// Returns the mean of the block that begins at each cell, or 0 if no block fits there.
fn block_means(cells: &[f32]) -> Vec<f32> {
    let mut means = vec![0.0; cells.len()];
    for y in 0..=HEIGHT - BLOCK {
        for x in 0..=WIDTH - BLOCK {
            let rows = (y..y + BLOCK).map(|row| cells[row * WIDTH + x..][..BLOCK].iter().sum::<f32>());
            means[y * WIDTH + x] = rows.sum::<f32>() / (BLOCK * BLOCK) as f32;
        }
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: [usize; 2] = [320, 240];

    /// Makes a soft pattern that differs with `seed`, moved by `shift` pixels, with brightness times `gain`.
    fn frame(seed: usize, shift: usize, gain: f32) -> Rgb {
        let level = |x: usize, y: usize| {
            let (x, y, seed) = ((x + shift) as f32, y as f32, seed as f32);
            let wave =
                (x * (0.05 + 0.013 * seed)).sin() + (y * (0.09 - 0.011 * seed) + x * 0.02 * seed).cos();
            crate::colour::quantize((wave + 2.0) * 50.0 * gain)
        };
        let [width, height] = SIZE;
        let data = (0..width * height)
            .flat_map(|i| [level(i % width, i / width); 3])
            .collect();
        Rgb { width, height, data }
    }

    fn cuts(before: &Rgb, after: &Rgb) -> bool {
        Thumbnail::new(after).starts_shot_after(&Thumbnail::new(before))
    }

    #[test]
    fn another_picture_begins_a_shot() {
        assert!(cuts(&frame(1, 0, 1.0), &frame(3, 0, 1.0)));
        assert!(cuts(&frame(3, 0, 1.0), &frame(1, 0, 1.0)));
    }

    #[test]
    fn going_to_black_and_back_begins_shots() {
        let black = Rgb {
            width: SIZE[0],
            height: SIZE[1],
            data: vec![0; SIZE[0] * SIZE[1] * 3],
        };
        assert!(cuts(&frame(1, 0, 1.0), &black));
        assert!(cuts(&black, &frame(1, 0, 1.0)));
        assert!(!cuts(&black, &black));
    }

    #[test]
    fn a_pan_and_a_flash_begin_no_shot() {
        assert!(!cuts(&frame(1, 0, 1.0), &frame(1, 0, 1.0)));
        assert!(!cuts(&frame(1, 0, 1.0), &frame(1, 20, 1.0)));
        assert!(!cuts(&frame(1, 0, 0.8), &frame(1, 0, 1.2)));
    }
}
