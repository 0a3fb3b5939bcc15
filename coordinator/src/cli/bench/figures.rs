//! The figures of `latentfarm bench`, which prints them as a table for people or as one JSON object for
//! programs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// The machine that was measured.
#[derive(Clone, Debug)]
pub(super) struct BenchHost {
    cores: usize,
    processor: String,
    /// Folder of the scratch files: the queue and the copy were measured on its disk.
    folder: PathBuf,
}

impl BenchHost {
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

/// A number of frames, and the time that one operation took for all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throughput {
    pub(super) frames: u64,
    pub(super) took: Duration,
}

impl Throughput {
    fn per_second(self) -> f64 {
        self.frames as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

#[derive(Clone, Debug)]
pub(super) struct MediaFigures {
    /// Where the pictures come from: a file's name, or `test pattern`.
    pub(super) source: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) decode: Throughput,
    pub(super) encode: Throughput,
    pub(super) stitch: StitchFigures,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct StitchFigures {
    pub(super) segments: usize,
    /// Size of the stitched file.
    pub(super) bytes: u64,
    /// Time to join the segments and to rename the file.
    pub(super) join: Duration,
    /// Time to check every segment before joining and the whole file afterwards.
    pub(super) check: Duration,
    /// Time to copy the stitched file and to sync the copy to disk.
    pub(super) copy: Duration,
}

impl StitchFigures {
    /// Returns how many times as long as a plain copy the join took.
    fn ratio(&self) -> f64 {
        self.join.as_secs_f64() / self.copy.as_secs_f64().max(1e-9)
    }
}

/// The time that the queue adds to a chunk.
#[derive(Clone, Debug)]
pub(super) struct QueueFigures {
    /// Times between the ends of consecutive chunks, in ascending order, at least one.
    per_chunk: Vec<Duration>,
    pub(super) chunks: usize,
    /// Time of a small synced write to the disk that holds the queue.
    pub(super) synced_write: Duration,
}

/// The median should be below this time.
const QUEUE_TARGET_MS: f64 = 20.0;

impl QueueFigures {
    /// Returns `None` if `per_chunk` is empty.
    pub(super) fn new(chunks: usize, mut per_chunk: Vec<Duration>, synced_write: Duration) -> Option<Self> {
        per_chunk.sort_unstable();
        (!per_chunk.is_empty()).then_some(Self {
            per_chunk,
            chunks,
            synced_write,
        })
    }

    /// Returns the smallest measured time in milliseconds that `percent` of the times do not exceed;
    /// `percent` is 1 to 100.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.per_chunk.len() * percent).div_ceil(100).max(1);
        milliseconds(self.per_chunk[rank - 1])
    }

    /// Returns how many times as long as one synced write the median chunk takes.
    fn ratio(&self) -> f64 {
        self.percentile(50) / milliseconds(self.synced_write).max(1e-6)
    }

    fn mean(&self) -> f64 {
        milliseconds(self.per_chunk.iter().sum::<Duration>()) / self.per_chunk.len() as f64
    }
}

#[derive(Clone, Debug)]
pub(super) struct BenchReport {
    pub(super) host: BenchHost,
    pub(super) media: MediaFigures,
    pub(super) queue: QueueFigures,
}

impl BenchReport {
    pub(super) fn to_json(&self) -> Value {
        let Self { host, media, queue } = self;
        let rate = |rate: Throughput| {
            json!({
                "frames": rate.frames,
                "seconds": rate.took.as_secs_f64(),
                "frames_per_second": rate.per_second(),
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "machine": {
                "cores": host.cores,
                "processor": host.processor,
                "folder": host.folder.display().to_string(),
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

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, media, queue } = self;
        let folder = host.folder.display();
        writeln!(
            f,
            "machine  {} cores, {}; files in {folder}",
            host.cores, host.processor
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
            "stitch   {:.1} ms to join {} segments to {:.1} MiB, {5:.1} times a plain copy of {3:.1} ms; {4:.1} ms to \
             check every frame",
            milliseconds(stitch.join),
            stitch.segments,
            stitch.bytes as f64 / f64::from(1 << 20),
            milliseconds(stitch.copy),
            milliseconds(stitch.check),
            stitch.ratio()
        )?;
        write!(
            f,
            "queue    {:.1} ms per chunk (median; p95 {:.1}, mean {:.1}, longest {:.1}) over {} chunks with every write \
             synced, target under {QUEUE_TARGET_MS:.0} ms; {6:.1} times a synced write of {5:.2} ms",
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
