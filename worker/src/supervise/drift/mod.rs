//! Leak detector: tells steady growth of an engine's baseline from noise, from warming up and from single steps.
//!
//! The baseline is what the engine holds after a window's cleanup. It is looked at in blocks of eight windows by their
//! medians, so that single outliers count for nothing; those medians again in blocks of eight, and so once more: a
//! fast leak shows in the short view, a slow one in the long.
//!
//! | view | windows a block | windows looked at | slowest leak of memory in use that is called |
//! |------|-----------------|-------------------|----------------------------------------------|
//! | 0    | 8               | 40                | 512 KiB a window                             |
//! | 1    | 64              | 320               | 64 KiB a window                              |
//! | 2    | 512             | 2560              | 8 KiB a window                               |
//!
//! Of memory that is held and not in use it is twice that: what an allocator keeps wanders by many MiB, where the bytes
//! in use come back to the same number.
//!
//! Growth over the last five blocks of a view is a leak where it
//! - is the series' floor or more: less is not worth a restart, and is what caches and pools settle by;
//! - comes in every one of the four gaps between blocks, none with less than the series' part of an even share: a cache
//!   that fills once, or a change of plan, is one gap;
//! - is [`NOISE_FACTOR`] times what the values in a block scatter, the growth itself taken out.

use std::collections::VecDeque;
use std::fmt;

use latentfarm_common::wire::memory::MemorySample;

/// Values of a block.
const BLOCK: usize = 8;
/// Blocks that a view looks at.
const BLOCKS: usize = 5;
const VIEWS: u32 = 3;
/// How far growth must stand out from the scatter within blocks.
pub const NOISE_FACTOR: f64 = 3.0;

/// From where on growth of a series counts.
#[derive(Clone, Copy, Debug)]
struct Bar {
    /// Least growth over a view, in bytes.
    floor: f64,
    /// A gap's least part of an even share of the growth.
    least_share: f64,
}

const LIVE: Bar = Bar {
    floor: (16 << 20) as f64,
    least_share: 1.0 / 3.0,
};
const OWN: Bar = Bar {
    floor: (32 << 20) as f64,
    least_share: 0.5,
};

/// What the baselines show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Steady,
    Leaking(Leak),
}

/// A leak that is sure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leak {
    pub of: Series,
    /// Median growth.
    pub bytes_per_window: u64,
    /// Windows over which it was seen.
    pub windows: u64,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Tensors and buffers in use: something keeps them.
    Live,
    /// The engine's share of the device beyond that: an allocator, a library or the driver.
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
            "{what} grows by {:.2} MiB a window, seen over {} windows",
            self.bytes_per_window as f64 / f64::from(1 << 20),
            self.windows
        )
    }
}

/// Fed with the baselines of one engine process.
#[derive(Clone, Debug, Default)]
pub struct Drift {
    live: Views,
    own: Views,
}

impl Drift {
    /// Takes the sample that follows a window's cleanup.
    pub fn push(&mut self, baseline: &MemorySample) -> Verdict {
        self.push_bytes(baseline.live, baseline.own)
    }

    /// The same for bytes in use and bytes held. A leak is told at the ends of blocks, for as long as it goes on.
    pub fn push_bytes(&mut self, live: u64, own: u64) -> Verdict {
        let told = |of, grown: Option<(u64, u64)>| {
            grown.map(|(bytes_per_window, windows)| Leak {
                of,
                bytes_per_window,
                windows,
            })
        };
        let live = told(Series::Live, self.live.push(live, LIVE));
        let own = told(Series::Own, self.own.push(own, OWN));
        live.or(own).map_or(Verdict::Steady, Verdict::Leaking)
    }
}

/// One series in all views, the shortest first.
#[derive(Clone, Debug, Default)]
struct Views([View; VIEWS as usize]);

impl Views {
    /// Bytes a window and windows, where a view is sure.
    fn push(&mut self, bytes: u64, bar: Bar) -> Option<(u64, u64)> {
        let (mut value, mut scale) = (bytes as f64, 1_u32);
        for view in &mut self.0 {
            let median = view.push(value)?;
            if let Some(per_value) = view.growth(bar) {
                return Some((
                    whole(per_value / f64::from(scale)),
                    u64::from(scale) * (BLOCK * BLOCKS) as u64,
                ));
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
    /// The median of the block that this value completes.
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

    /// Bytes by which one value exceeds the one before, where growth is sure.
    fn growth(&self, bar: Bar) -> Option<f64> {
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
        let steady = gaps.iter().all(|gap| *gap >= even * bar.least_share);
        let sure = total >= bar.floor && steady && total >= NOISE_FACTOR * median(&scatters);
        sure.then_some(per_value)
    }
}

impl Block {
    /// Range of the values when growth of so much a value is taken out.
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

/// Bytes of a growth, which is positive and far below 2^52.
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
