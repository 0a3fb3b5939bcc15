//! Detects memory leaks of an engine: separates steady growth of its baseline from noise, warm-up and single
//! steps. The runner feeds it after every window and replaces a leaking engine after the task; `memtest`
//! feeds it too.
//!
//! The baseline is the memory that the engine holds after a window's cleanup. The detector takes the medians
//! of blocks of eight windows, so that single outliers do not count, then the medians of blocks of eight of
//! those medians, and so once more: a fast leak shows in the short view, a slow one in the long view.
//!
//! | view | windows in a block | windows in the view | slowest leak of memory in use that is detected |
//! |------|--------------------|---------------------|------------------------------------------------|
//! | 0    | 8                  | 40                  | 512 KiB a window                               |
//! | 1    | 64                 | 320                 | 64 KiB a window                                |
//! | 2    | 512                | 2560                | 8 KiB a window                                 |
//!
//! For memory that is held and not in use these are twice as large: the memory that an allocator keeps varies
//! by many MiB, while the bytes in use return to the same number.
//!
//! Growth over the last five blocks of a view is a leak if all of this holds:
//! - It is at least the floor of the series. Less is not worth a restart, and caches and pools settle by as
//!   much.
//! - Each of the four gaps between the blocks has its part: at least the series' least share of an even one.
//!   A cache that fills once, or a change of plan, grows in one gap.
//! - It is at least [`NOISE_FACTOR`] times the scatter of the values within a block, without the growth
//!   itself.

use std::collections::VecDeque;
use std::fmt;

use latentfarm_common::wire::memory::MemorySample;

/// The number of values in a block.
const BLOCK: usize = 8;
/// The number of blocks in a view.
const BLOCKS: usize = 5;
const VIEWS: usize = 3;
/// Growth is a leak only if it is so many times the scatter within blocks.
pub const NOISE_FACTOR: f64 = 3.0;

/// The bounds above which the growth of a series is a leak.
#[derive(Clone, Copy, Debug)]
struct LeakThreshold {
    /// The least growth over a view, in bytes.
    floor: f64,
    /// The least growth of one gap between blocks, as a share of an even one.
    least_share: f64,
}

/// The bounds for memory in use.
const LIVE: LeakThreshold = LeakThreshold {
    floor: (16 << 20) as f64,
    least_share: 1.0 / 3.0,
};
/// The bounds for memory held.
const OWN: LeakThreshold = LeakThreshold {
    floor: (32 << 20) as f64,
    least_share: 0.5,
};

/// A leak that was detected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leak {
    pub of: Series,
    /// The median growth from one window to the next.
    pub bytes_per_window: u64,
    /// The number of windows over which the growth was measured.
    pub windows: u64,
}

/// The kind of memory that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Tensors and buffers in use, which something keeps.
    Live,
    /// All memory of the device that the engine's process holds: tensors, allocators, libraries, the driver.
    Own,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.of {
            Series::Live => "memory in use",
            Series::Own => "memory held",
        };
        write!(
            f,
            "{what} grows by {:.2} MiB a window, measured over {} windows",
            self.bytes_per_window as f64 / f64::from(1 << 20),
            self.windows
        )
    }
}

/// The leak detector of one engine process.
#[derive(Clone, Debug, Default)]
pub struct LeakDetector {
    live: Views,
    own: Views,
}

impl LeakDetector {
    /// Adds the sample that follows a window's cleanup. Returns a leak at the end of each block for as long
    /// as it goes on.
    pub fn push(&mut self, baseline: &MemorySample) -> Option<Leak> {
        self.push_bytes(baseline.live, baseline.own)
    }

    /// Does the same as [`LeakDetector::push`] for bytes in use and bytes held.
    fn push_bytes(&mut self, live: u64, own: u64) -> Option<Leak> {
        let live = self.live.push(Series::Live, live, LIVE);
        let own = self.own.push(Series::Own, own, OWN);
        live.or(own)
    }
}

/// One series in all views, the shortest first.
#[derive(Clone, Debug, Default)]
struct Views([View; VIEWS]);

impl Views {
    /// Adds a value; returns the leak that the shortest view shows which shows one.
    fn push(&mut self, of: Series, bytes: u64, threshold: LeakThreshold) -> Option<Leak> {
        let (mut value, mut scale) = (bytes as f64, 1_u32);
        for view in &mut self.0 {
            let median = view.push(value)?;
            if let Some(per_value) = view.growth(threshold) {
                return Some(Leak {
                    of,
                    bytes_per_window: whole(per_value / f64::from(scale)),
                    windows: u64::from(scale) * (BLOCK * BLOCKS) as u64,
                });
            }
            (value, scale) = (median, scale * 8);
        }
        None
    }
}

#[derive(Clone, Debug, Default)]
struct View {
    values: Vec<f64>,
    blocks: VecDeque<Block>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    median: f64,
    values: [f64; BLOCK],
}

impl View {
    /// Adds a value; returns the median of the block that it completes, if it does.
    fn push(&mut self, value: f64) -> Option<f64> {
        self.values.push(value);
        let values: [f64; BLOCK] = self.values.as_slice().try_into().ok()?;
        self.values.clear();
        let median = median(&values);
        if self.blocks.len() == BLOCKS {
            self.blocks.pop_front();
        }
        self.blocks.push_back(Block { median, values });
        Some(median)
    }

    /// Returns the bytes by which one value exceeds the one before, if that growth is a leak.
    fn growth(&self, threshold: LeakThreshold) -> Option<f64> {
        let (first, last) = (self.blocks.front()?, self.blocks.back()?);
        if self.blocks.len() < BLOCKS {
            return None;
        }
        let total = last.median - first.median;
        let medians: Vec<f64> = self.blocks.iter().map(|block| block.median).collect();
        let gaps: Vec<f64> = medians.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let per_value = median(&gaps) / BLOCK as f64;
        let scatters: Vec<f64> = self.blocks.iter().map(|block| block.scatter(per_value)).collect();
        let even = total / gaps.len() as f64;
        let steady = gaps.iter().all(|gap| *gap >= even * threshold.least_share);
        let sure = total >= threshold.floor && steady && total >= NOISE_FACTOR * median(&scatters);
        sure.then_some(per_value)
    }
}

impl Block {
    /// Returns the range of the values without a growth of `per_value` from each to the next.
    fn scatter(&self, per_value: f64) -> f64 {
        let level = |(at, value): (usize, &f64)| value - per_value * at as f64;
        let (lowest, highest) = self
            .values
            .iter()
            .enumerate()
            .map(level)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        highest - lowest
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

/// Rounds a growth in bytes, which is positive and far below 2^52.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest whole number in range"
)]
fn whole(bytes: f64) -> u64 {
    bytes.round() as u64
}

#[cfg(test)]
mod tests;
