//! The figures of a bench: for people a table, for machines one JSON object.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// What was measured on.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    cores: usize,
    processor: String,
    /// The files of the bench lay here: its disk is what the queue and the copy were measured on.
    folder: PathBuf,
}

impl Machine {
    pub(super) fn here(folder: &Path) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let processor = model.and_then(|line| line.split_once(": "));
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            processor: processor.map_or("unknown processor", |(_, name)| name).to_owned(),
            folder: folder.to_owned(),
        }
    }
}

/// Frames that went through something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) frames: u64,
    pub(super) took: Duration,
}

impl Rate {
    fn per_second(self) -> f64 {
        self.frames as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

#[derive(Clone, Debug)]
pub(super) struct MediaFigures {
    /// What the pictures are: a file's name, or that they were made up.
    pub(super) source: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) decode: Rate,
    pub(super) encode: Rate,
    pub(super) stitch: StitchFigures,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct StitchFigures {
    pub(super) segments: usize,
    /// Size of the stitched file.
    pub(super) bytes: u64,
    /// Joining, and giving the file its name.
    pub(super) join: Duration,
    /// Checking every segment before, and the whole file after.
    pub(super) check: Duration,
    /// A plain copy of the stitched file, synced like it.
    pub(super) copy: Duration,
}

impl StitchFigures {
    /// How many times as long as a plain copy.
    fn ratio(&self) -> f64 {
        self.join.as_secs_f64() / self.copy.as_secs_f64().max(1e-9)
    }
}

/// Times between the ends of consecutive chunks.
#[derive(Clone, Debug)]
pub(super) struct QueueFigures {
    /// Ascending, not empty.
    per_chunk: Vec<Duration>,
    pub(super) chunks: usize,
    /// A small write, synced, on the disk that the queue was on.
    pub(super) synced_write: Duration,
}

/// Figure that the queue is to stay under.
const QUEUE_TARGET_MS: f64 = 20.0;

impl QueueFigures {
    /// `None` without a single time.
    pub(super) fn new(chunks: usize, mut per_chunk: Vec<Duration>, synced_write: Duration) -> Option<Self> {
        per_chunk.sort_unstable();
        (!per_chunk.is_empty()).then_some(Self {
            per_chunk,
            chunks,
            synced_write,
        })
    }

    /// Smallest time that `percent` of a hundred do not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.per_chunk.len() * percent).div_ceil(100).max(1);
        milliseconds(self.per_chunk[rank - 1])
    }

    /// How many times as long as one synced write.
    fn ratio(&self) -> f64 {
        self.percentile(50) / milliseconds(self.synced_write).max(1e-6)
    }

    fn mean(&self) -> f64 {
        milliseconds(self.per_chunk.iter().sum::<Duration>()) / self.per_chunk.len() as f64
    }
}

#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub(super) machine: Machine,
    pub(super) media: MediaFigures,
    pub(super) queue: QueueFigures,
}

impl Bench {
    pub(super) fn to_json(&self) -> Value {
        let Self {
            machine,
            media,
            queue,
        } = self;
        let rate = |rate: Rate| {
            json!({
                "frames": rate.frames,
                "seconds": rate.took.as_secs_f64(),
                "frames_per_second": rate.per_second(),
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "machine": {
                "cores": machine.cores,
                "processor": machine.processor,
                "folder": machine.folder.display().to_string(),
            },
            "video": { "source": media.source, "width": media.width, "height": media.height },
            "decode": rate(media.decode),
            "encode": rate(media.encode),
            "stitch": {
                "segments": media.stitch.segments,
                "bytes": media.stitch.bytes,
                "join_seconds": media.stitch.join.as_secs_f64(),
                "check_seconds": media.stitch.check.as_secs_f64(),
                "copy_seconds": media.stitch.copy.as_secs_f64(),
                "ratio_to_copy": media.stitch.ratio(),
            },
            "queue": {
                "chunks": queue.chunks,
                "sync": "always",
                "median_ms": queue.percentile(50),
                "p95_ms": queue.percentile(95),
                "mean_ms": queue.mean(),
                "max_ms": queue.percentile(100),
                "target_ms": QUEUE_TARGET_MS,
                "synced_write_ms": milliseconds(queue.synced_write),
                "ratio_to_synced_write": queue.ratio(),
            },
        })
    }
}

impl fmt::Display for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            machine,
            media,
            queue,
        } = self;
        let folder = machine.folder.display();
        writeln!(
            f,
            "machine  {} cores, {}; files in {folder}",
            machine.cores, machine.processor
        )?;
        writeln!(f, "video    {}, {} x {}", media.source, media.width, media.height)?;
        for (name, rate) in [("decode", media.decode), ("encode", media.encode)] {
            let (speed, frames, seconds) = (rate.per_second(), rate.frames, rate.took.as_secs_f64());
            writeln!(
                f,
                "{name}   {speed:.0} frames/s ({frames} frames in {seconds:.2} s)"
            )?;
        }
        let stitch = &media.stitch;
        writeln!(
            f,
            "stitch   {:.1} ms to join {} segments of {:.1} MiB, a plain copy {:.1} ms: {:.1} times as long; {:.1} ms \
             to check every frame",
            milliseconds(stitch.join),
            stitch.segments,
            stitch.bytes as f64 / f64::from(1 << 20),
            milliseconds(stitch.copy),
            stitch.ratio(),
            milliseconds(stitch.check)
        )?;
        write!(
            f,
            "queue    {:.1} ms a chunk (median; p95 {:.1}, mean {:.1}, longest {:.1}) over {} chunks at sync always, \
             target under {QUEUE_TARGET_MS:.0}; a synced write here takes {:.2} ms: {:.1} times as long",
            queue.percentile(50),
            queue.percentile(95),
            queue.mean(),
            queue.percentile(100),
            queue.chunks,
            milliseconds(queue.synced_write),
            queue.ratio()
        )
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_occurred() {
        let times = |count: u64| (1..=count).rev().map(Duration::from_millis).collect();
        let queue = QueueFigures::new(201, times(200), Duration::from_millis(20)).unwrap();
        let figures = [50, 95, 100].map(|percent| queue.percentile(percent));
        assert_eq!(figures.map(f64::to_bits), [100.0, 190.0, 200.0].map(f64::to_bits));
        assert!((queue.mean() - 100.5).abs() < 1e-9);
        assert!((queue.ratio() - 5.0).abs() < 1e-9);
        let one = QueueFigures::new(2, times(1), Duration::ZERO).unwrap();
        let bits = [50, 95, 100].map(|percent| one.percentile(percent).to_bits());
        assert_eq!(bits, [1.0_f64.to_bits(); 3]);
        assert!(QueueFigures::new(1, Vec::new(), Duration::ZERO).is_none());
    }
}
