//! What a job will take, told before any work starts.

use std::fmt;
use std::path::Path;

use latentfarm_common::wire::memory::DeviceKind;

use super::WeightsInfo;
use crate::dispatch::JobNeeds;
use crate::dispatch::memory::gib;

/// f32 operations a second of one core in the model's matrix work, as measured on a current server CPU.
const FLOPS_PER_THREAD: f64 = 5e10;
/// Ingest, start of the processes, loading of a small model, stitching.
const START_SECONDS: f64 = 3.0;
/// UNet operations for one frame, one step and one parameter at 256 px (0.253 TFLOP over 1.267e9 parameters).
const UNET_FLOP_PER_PARAMETER: f64 = 200.0;
/// VAE operations for one frame and one parameter at 256 px, two encodes and one decode.
const VAE_FLOP_PER_PARAMETER: f64 = 8_600.0;

/// A forecast. Frames, chunks and disk are close; the time is right within a factor of three or so.
#[derive(Clone, Debug)]
pub struct Estimate {
    pub frames: u64,
    pub chunks: u64,
    pub disk_bytes: u64,
    pub free_bytes: Option<u64>,
    /// Host memory of a worker on the CPU, under the leanest plan.
    pub worker_mib: u64,
    /// Memory of a GPU under the leanest plan, where that is known.
    pub gpu_mib: Option<u64>,
    pub seconds: f64,
}

/// What the forecast is made from.
#[derive(Clone, Debug)]
pub struct EstimateInput<'a> {
    pub frames: u64,
    pub chunk_frames: u32,
    pub picture_bytes: u64,
    pub video_bytes: u64,
    pub audio_ms: u64,
    pub lossless: bool,
    pub steps: u32,
    pub guided: bool,
    pub needs: &'a JobNeeds,
    pub weights: &'a WeightsInfo,
    pub workers: usize,
    pub threads_per_worker: usize,
    pub folder: &'a Path,
}

impl Estimate {
    pub fn of(input: &EstimateInput) -> Self {
        // 16 kHz mono 16-bit speech is kept twice; a lossless frame takes about half its raw size, at CRF 18
        // about a thirtieth; the result stands once as segments and once as the final file.
        let speech_bytes = input.audio_ms * 32 * 2;
        let frame_bytes = if input.lossless {
            input.picture_bytes / 2
        } else {
            input.picture_bytes / 30
        };
        let disk_bytes = input.video_bytes + speech_bytes + 2 * input.frames * frame_bytes + (64 << 20);
        let side = f64::from(input.weights.resolution_px) / 256.0;
        let passes = f64::from(input.steps) * if input.guided { 2.0 } else { 1.0 };
        let unet = UNET_FLOP_PER_PARAMETER * input.weights.unet_parameters as f64 * passes;
        let vae = VAE_FLOP_PER_PARAMETER * input.weights.vae_parameters as f64;
        let model_flop = (unet + vae) * side * side * input.frames as f64;
        let leanest = |kind| {
            input
                .needs
                .of(kind)
                .map(|needs| needs.leanest() + input.needs.beside(kind))
        };
        let threads = (input.workers * input.threads_per_worker) as f64;
        // On one thread: faces take about 15 ms a frame; decode, paste and encode 60 ns a byte of the picture.
        let media_seconds = input.frames as f64 * (0.015 + input.picture_bytes as f64 * 60e-9);
        Self {
            frames: input.frames,
            chunks: input.frames.div_ceil(u64::from(input.chunk_frames)),
            disk_bytes,
            free_bytes: free_bytes(input.folder),
            worker_mib: leanest(DeviceKind::Cpu).unwrap_or(0),
            gpu_mib: leanest(DeviceKind::Cuda),
            seconds: START_SECONDS + model_flop / (FLOPS_PER_THREAD * threads) + media_seconds / threads,
        }
    }

    /// Whether the disk has room for what the job writes.
    pub fn fits_disk(&self) -> bool {
        self.free_bytes.is_none_or(|free| free >= self.disk_bytes)
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} frames in {} chunks, about {}; disk {} MiB",
            self.frames,
            self.chunks,
            rough_time(self.seconds),
            self.disk_bytes >> 20
        )?;
        if let Some(free) = self.free_bytes {
            write!(f, " of {} free", free >> 20)?;
        }
        write!(f, "; memory {} a worker on the CPU", gib(self.worker_mib))?;
        match self.gpu_mib {
            Some(mib) => write!(f, ", {} of a GPU", gib(mib)),
            None => Ok(()),
        }
    }
}

/// `40 s`, `12 min`, `3.5 h`.
fn rough_time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Free bytes of the file system that holds `path` or its nearest existing parent.
fn free_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|dir| dir.exists())?;
    let existing = if existing.as_os_str().is_empty() {
        Path::new(".")
    } else {
        existing
    };
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}
