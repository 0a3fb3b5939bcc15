//! Who takes which chunk: the GPUs all that fits them, the CPU what is left to it by `--cpu-fallback`.

use clap::ValueEnum;
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::wire::memory::DeviceKind;
use serde::{Deserialize, Serialize};

use super::options::{Fit, Options, Shortage};

/// How much earlier the CPU has to be done for a chunk to be moved there: predictions are not exact, and moving
/// costs something.
const CPU_LEAD: f64 = 1.25;

/// When the CPU renders a chunk on a farm that has GPUs. Without a GPU worker it always does, unless `Never`. Each
/// variant's comment is its help on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuFallback {
    /// Never: chunks wait for a GPU that they fit into
    Never,
    /// Where no live GPU can ever fit the chunk, or the CPU is predicted to be done earlier
    #[default]
    Last,
    /// Always: workers without a GPU are kept busy too
    Always,
}

/// A chunk that nobody has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub frames: u64,
    pub options: Options,
    /// ResourceClass of the queue in which it is queued, if it is.
    pub at: Option<ResourceClass>,
}

/// What the farm is doing, and how fast it has been.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Live workers with a GPU that some chunk fits into.
    pub gpu_workers: usize,
    /// Live workers that render on the CPU and have no GPU.
    pub cpu_workers: usize,
    /// Frames of chunks that GPUs are at.
    pub gpu_frames: u64,
    /// Chunks that CPUs are at.
    pub cpu_chunks: usize,
    /// Milliseconds of one worker for a frame; `None`: not observed yet.
    pub gpu_frame_ms: Option<f64>,
    pub cpu_frame_ms: Option<f64>,
}

/// Where a chunk is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    Queue {
        fit: Fit,
        why: &'static str,
    },
    /// Fits no live worker that may take it.
    Wait {
        shortages: Vec<Shortage>,
    },
}

impl Placement {
    pub fn class(&self) -> Option<ResourceClass> {
        match self {
            Self::Queue { fit, .. } => Some(fit.class),
            Self::Wait { .. } => None,
        }
    }
}

const ONLY_GPU: &str = "the smallest GPU queue that holds its leanest plan";
const NO_GPU_FITS: &str = "no live GPU can fit it";
const CPU_EARLIER: &str = "the CPU is predicted to be done with it earlier";
const CPU_ALWAYS: &str = "the CPU always helps";

/// Places every candidate, in frame order. Solving again, with the chunks where they were placed, changes
/// nothing.
pub fn solve(fallback: CpuFallback, candidates: &[Candidate], load: &Load) -> Vec<Placement> {
    let mut placements: Vec<Placement> = candidates
        .iter()
        .map(|candidate| first(fallback, candidate))
        .collect();
    if fallback == CpuFallback::Never {
        return placements;
    }
    // Chunks that either may take: the GPUs have them all now.
    let shared: Vec<usize> = (0..candidates.len())
        .filter(|index| {
            let options = &candidates[*index].options;
            options.gpu.is_some() && options.cpu.is_some()
        })
        .collect();
    let forced = placements.iter().filter(|placement| is_cpu(placement)).count();
    let mut room = load.cpu_workers.saturating_sub(load.cpu_chunks + forced);
    let fits_gpu = |index: &usize| candidates[*index].options.gpu.is_some();
    let queued: u64 = (0..candidates.len())
        .filter(fits_gpu)
        .map(|index| candidates[index].frames)
        .sum();
    let mut gpu_frames = load.gpu_frames + queued;
    let all_gpu_frames = gpu_frames;
    let is_earlier = |frames: u64, gpu_frames: u64, lead: f64| match fallback {
        CpuFallback::Always => true,
        CpuFallback::Never => false,
        CpuFallback::Last => ends_earlier(load, frames, gpu_frames, lead),
    };
    let why = if fallback == CpuFallback::Always {
        CPU_ALWAYS
    } else {
        CPU_EARLIER
    };
    let mut give = |index: usize, room: &mut usize, gpu_frames: &mut u64| {
        if let Some(fit) = candidates[index].options.cpu {
            placements[index] = Placement::Queue { fit, why };
            *room -= 1;
            *gpu_frames -= candidates[index].frames;
        }
    };
    let (kept, others): (Vec<usize>, Vec<usize>) = shared
        .into_iter()
        .partition(|index| matches!(candidates[*index].at, Some(ResourceClass::Cpu(_))));
    for index in kept {
        if room > 0 && is_earlier(candidates[index].frames, all_gpu_frames, 1.0) {
            give(index, &mut room, &mut gpu_frames);
        }
    }
    // The last in line gain most.
    for index in others.into_iter().rev() {
        if room == 0 || !is_earlier(candidates[index].frames, gpu_frames, CPU_LEAD) {
            break;
        }
        give(index, &mut room, &mut gpu_frames);
    }
    placements
}

fn first(fallback: CpuFallback, candidate: &Candidate) -> Placement {
    let options = &candidate.options;
    if let Some(fit) = options.gpu {
        return Placement::Queue { fit, why: ONLY_GPU };
    }
    match options.cpu {
        Some(fit) if fallback != CpuFallback::Never => Placement::Queue {
            fit,
            why: NO_GPU_FITS,
        },
        _ => Placement::Wait {
            shortages: options
                .shortages
                .iter()
                .filter(|shortage| fallback != CpuFallback::Never || shortage.kind == DeviceKind::Cuda)
                .copied()
                .collect(),
        },
    }
}

fn is_cpu(placement: &Placement) -> bool {
    matches!(placement.class(), Some(ResourceClass::Cpu(_)))
}

/// Whether an idle CPU worker is done with a chunk before the GPUs are with all that lies before them.
fn ends_earlier(load: &Load, frames: u64, gpu_frames: u64, margin: f64) -> bool {
    let (Some(gpu_ms), Some(cpu_ms)) = (load.gpu_frame_ms, load.cpu_frame_ms) else {
        return false;
    };
    let gpu_end = gpu_frames as f64 * gpu_ms / load.gpu_workers.max(1) as f64;
    frames as f64 * cpu_ms * margin < gpu_end
}
