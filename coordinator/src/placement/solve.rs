//! Distributes chunks over GPU and CPU queues: every chunk that fits a GPU is placed there, and
//! `--cpu-fallback` decides which chunks the CPU workers take.

use latentfarm_common::queues::{Lane, ResourceClass};
use latentfarm_common::wire::memory::DeviceKind;

use super::options::{Fit, Options, Shortage};
use super::policy::CpuFallback;

/// A chunk is moved to the CPU only if the CPU would be done this many times earlier, because predictions are
/// not exact and moving a task has a cost.
const CPU_LEAD: f64 = 1.25;

/// A chunk that no worker has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub frames: u64,
    pub options: Options,
    /// The lane of the queue that holds the chunk's task, if it was published.
    pub queued_in: Option<Lane>,
}

/// The workers, the work in hand and the observed speed of the farm.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Live workers with a GPU that some chunk fits into.
    pub gpu_workers: usize,
    /// Live workers that render on the CPU and have no GPU.
    pub cpu_workers: usize,
    /// Frames of the chunks that GPU workers are rendering.
    pub gpu_frames: u64,
    /// The number of chunks that CPU workers are rendering.
    pub cpu_chunks: usize,
    /// The milliseconds that one GPU worker takes for a frame; `None` before the first result.
    pub gpu_frame_ms: Option<f64>,
    /// The same for one CPU worker.
    pub cpu_frame_ms: Option<f64>,
}

/// The decision about one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The chunk belongs into the queue of `fit`; `why` gives the reason in one clause.
    Queue { fit: Fit, why: &'static str },
    /// The chunk fits no live worker that may take it.
    Wait { shortages: Vec<Shortage> },
}

impl Placement {
    /// The lane of the chosen queue; `None` if the chunk waits.
    pub fn lane(&self) -> Option<Lane> {
        match self {
            Self::Queue { fit, .. } => Some(fit.lane()),
            Self::Wait { .. } => None,
        }
    }
}

const ONLY_GPU: &str = "the smallest GPU queue that holds its leanest plan";
const NO_GPU_FITS: &str = "no live GPU can fit it";
const NO_GPU_CAN: &str = "no GPU can render it";
const CPU_EARLIER: &str = "the CPU is predicted to be done with it earlier";
const CPU_ALWAYS: &str = "the CPU always helps";

/// Places every candidate; they come in frame order. Solving again changes nothing once the chunks are queued
/// where they were placed.
pub fn solve(fallback: CpuFallback, candidates: &[Candidate], load: &Load) -> Vec<Placement> {
    let mut placements: Vec<Placement> = candidates
        .iter()
        .map(|candidate| prefer_gpu(fallback, candidate))
        .collect();
    if fallback == CpuFallback::Never {
        return placements;
    }
    // These fit both kinds of device; at this point they are all placed on the GPUs.
    let shared: Vec<usize> = (0..candidates.len())
        .filter(|index| {
            let options = &candidates[*index].options;
            options.gpu.is_some() && options.cpu.is_some()
        })
        .collect();
    let forced = placements
        .iter()
        .filter(|placement| is_cpu(placement.lane()))
        .count();
    let mut idle_cpu_workers = load.cpu_workers.saturating_sub(load.cpu_chunks + forced);
    let fits_gpu = |candidate: &&Candidate| candidate.options.gpu.is_some();
    let queued = candidates.iter().filter(fits_gpu);
    let all_gpu_frames = load.gpu_frames + queued.map(|candidate| candidate.frames).sum::<u64>();
    let mut gpu_frames = all_gpu_frames;
    let cpu_is_earlier = |frames: u64, gpu_frames: u64, lead: f64| match fallback {
        CpuFallback::Always => true,
        CpuFallback::Never => false,
        CpuFallback::Last => cpu_finishes_earlier(load, frames, gpu_frames, lead),
    };
    let why = if fallback == CpuFallback::Always {
        CPU_ALWAYS
    } else {
        CPU_EARLIER
    };
    let mut assign_cpu = |index: usize, idle_cpu_workers: &mut usize, gpu_frames: &mut u64| {
        if let Some(fit) = candidates[index].options.cpu {
            placements[index] = Placement::Queue { fit, why };
            *idle_cpu_workers -= 1;
            *gpu_frames -= candidates[index].frames;
        }
    };
    let (kept, others): (Vec<usize>, Vec<usize>) = shared
        .into_iter()
        .partition(|index| is_cpu(candidates[*index].queued_in));
    for index in kept {
        if idle_cpu_workers > 0 && cpu_is_earlier(candidates[index].frames, all_gpu_frames, 1.0) {
            assign_cpu(index, &mut idle_cpu_workers, &mut gpu_frames);
        }
    }
    // The last chunks gain most, because the GPUs would reach them last.
    for index in others.into_iter().rev() {
        if idle_cpu_workers == 0 || !cpu_is_earlier(candidates[index].frames, gpu_frames, CPU_LEAD) {
            break;
        }
        assign_cpu(index, &mut idle_cpu_workers, &mut gpu_frames);
    }
    placements
}

/// The GPU queue that the chunk fits into, else its CPU queue unless that is forbidden.
fn prefer_gpu(fallback: CpuFallback, candidate: &Candidate) -> Placement {
    let options = &candidate.options;
    if let Some(fit) = options.gpu {
        return Placement::Queue { fit, why: ONLY_GPU };
    }
    match options.cpu {
        Some(fit) if fallback != CpuFallback::Never => Placement::Queue {
            fit,
            why: if options.shortages.is_empty() {
                NO_GPU_CAN
            } else {
                NO_GPU_FITS
            },
        },
        _ => Placement::Wait {
            shortages: options
                .shortages
                .iter()
                .filter(|shortage| fallback != CpuFallback::Never || shortage.kind == DeviceKind::Cuda)
                .cloned()
                .collect(),
        },
    }
}

fn is_cpu(lane: Option<Lane>) -> bool {
    lane.is_some_and(|lane| matches!(lane.class, ResourceClass::Cpu(_)))
}

/// Whether an idle CPU worker would finish a chunk of `frames` at least `margin` times earlier than the GPUs
/// would finish the `gpu_frames` that are placed on them.
fn cpu_finishes_earlier(load: &Load, frames: u64, gpu_frames: u64, margin: f64) -> bool {
    let (Some(gpu_ms), Some(cpu_ms)) = (load.gpu_frame_ms, load.cpu_frame_ms) else {
        return false;
    };
    let gpu_end = gpu_frames as f64 * gpu_ms / load.gpu_workers.max(1) as f64;
    frames as f64 * cpu_ms * margin < gpu_end
}
