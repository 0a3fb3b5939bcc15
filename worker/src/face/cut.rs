//! Tells where a shot begins, from two neighbouring frames alone.

use latentfarm_common::frame::Rgb;

/// Size of a look in blocks, and of a block in cells.
const BLOCKS: [usize; 2] = [8, 6];
const BLOCK: usize = 8;
const WIDTH: usize = BLOCKS[0] * BLOCK;
const HEIGHT: usize = BLOCKS[1] * BLOCK;
/// Cells that a block may move from frame to frame, each way.
const REACH: usize = 6;
/// A shot begins where this share of the picture's contrast is not explained by movement...
const MIN_SHARE: f32 = 0.5;
/// ...and the unexplained rest is at least this large, in luma levels (mean over the picture).
const MIN_REST: f32 = 4.0;

/// A frame at a glance: 64 x 48 cells of mean luma.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Look {
    cells: Vec<f32>,
    means: Vec<f32>,
}

impl Look {
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

    /// Whether this frame is so unlike the one before that a shot begins with it.
    ///
    /// Each block of 8 x 8 cells is sought in the frame before within 6 cells around its place; brightness
    /// is compared after the block's own mean is taken off, so that pans, gestures and flashes explain
    /// themselves. What is left over is compared with what there is to explain, the larger contrast of the
    /// two frames: a shot begins where at least half of it, and 4 levels a cell, is left. Fades and
    /// dissolves are gradual and begin no shot; a very fast pan may begin one.
    pub(super) fn begins_a_shot_after(&self, before: &Self) -> bool {
        let [rest, share] = self.unexplained(before);
        rest >= MIN_REST && share >= MIN_SHARE
    }

    /// Mean unexplained luma a cell, and its share of the larger contrast. Both ways, and the larger: a
    /// flat picture would be found in any other.
    pub(super) fn unexplained(&self, before: &Self) -> [f32; 2] {
        let rest = self.rest(before).max(before.rest(self));
        let most = self.contrast().max(before.contrast());
        [
            rest / (WIDTH * HEIGHT) as f32,
            if most > 0.0 { rest / most } else { 0.0 },
        ]
    }

    /// What is left of this frame's blocks after each is sought in the other frame.
    fn rest(&self, other: &Self) -> f32 {
        corners()
            .map(|corner| other.best_match(&self.block(corner), corner))
            .sum()
    }

    fn contrast(&self) -> f32 {
        corners()
            .map(|corner| self.block(corner).iter().map(|value| value.abs()).sum::<f32>())
            .sum()
    }

    /// Cells of a block less their mean.
    fn block(&self, [x, y]: [usize; 2]) -> [f32; BLOCK * BLOCK] {
        let mut block = [0.0; BLOCK * BLOCK];
        for (row, out) in block.chunks_exact_mut(BLOCK).enumerate() {
            out.copy_from_slice(&self.cells[(y + row) * WIDTH + x..][..BLOCK]);
        }
        let mean = self.means[y * WIDTH + x];
        block.map(|value| value - mean)
    }

    fn best_match(&self, block: &[f32; BLOCK * BLOCK], corner: [usize; 2]) -> f32 {
        let range = |at: usize, size: usize| at.saturating_sub(REACH)..=(at + REACH).min(size - BLOCK);
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

/// Mean of the block that begins at each cell; 0 where none fits.
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

    /// A soft pattern that differs with `seed`, moved by `shift` pixels, with brightness times `gain`.
    fn frame(seed: usize, shift: usize, gain: f32) -> Rgb {
        let level = |x: usize, y: usize| {
            let (x, y, seed) = ((x + shift) as f32, y as f32, seed as f32);
            let wave =
                (x * (0.05 + 0.013 * seed)).sin() + (y * (0.09 - 0.011 * seed) + x * 0.02 * seed).cos();
            crate::face::colour::level((wave + 2.0) * 50.0 * gain)
        };
        let [width, height] = SIZE;
        let data = (0..width * height)
            .flat_map(|i| [level(i % width, i / width); 3])
            .collect();
        Rgb { width, height, data }
    }

    fn cuts(before: &Rgb, after: &Rgb) -> bool {
        Look::new(after).begins_a_shot_after(&Look::new(before))
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
