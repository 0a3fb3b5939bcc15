//! What a journal holds.

use latentfarm_common::ids::{Attempt, ChunkName, JobId, WorkerId};
use latentfarm_common::queues::Queue;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryRequirements, MemoryUse};
use latentfarm_common::wire::outcome::Failure;
use serde::{Deserialize, Serialize};

use crate::placement::CpuFallback;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    #[serde(flatten)]
    pub entry: Entry,
}

/// Something that was decided or that happened. Each value is in its text form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// A coordinator took the job on.
    RunBegins {
        job: JobId,
        epoch: u64,
        analyze_chunks: usize,
        render_chunks: usize,
        frames: u64,
        chunk_frames: u32,
        /// `None` if it is not known: the farm's own records do not say it.
        cpu_fallback: Option<CpuFallback>,
        unplaceable_wait_seconds: u64,
    },
    /// Published.
    Placed {
        chunk: ChunkName,
        attempt: Attempt,
        queue: Queue,
        kind: DeviceKind,
        floor: MemoryPlan,
        /// Of the leanest plan, all in all.
        need_mib: u64,
        needs: MemoryRequirements,
        why: String,
    },
    /// Taken out of the queue to be placed anew.
    TakenBack {
        chunk: ChunkName,
        attempt: Attempt,
        queue: Queue,
        why: String,
    },
    /// Fits no live worker.
    Waits {
        chunk: ChunkName,
        why: String,
    },
    Started {
        chunk: ChunkName,
        attempt: Attempt,
        worker: WorkerId,
    },
    Failed {
        chunk: ChunkName,
        attempt: Attempt,
        worker: WorkerId,
        failure: Failure,
        /// The queue that it was placed in; `None` if another attempt counted already.
        queue: Option<Queue>,
        /// What followed for the next attempt.
        then: Option<String>,
    },
    /// The attempt ended without a word of its worker: lost worker, lost task, bad result.
    Ended {
        chunk: ChunkName,
        attempt: Attempt,
        reason: String,
        then: Option<String>,
    },
    Done {
        chunk: ChunkName,
        attempt: Attempt,
        worker: WorkerId,
        frames: u64,
        numerics_fingerprint: String,
        memory: Option<MemoryUse>,
    },
    GivenUp {
        chunk: ChunkName,
        reason: String,
    },
}

impl Entry {
    /// The chunk that it is about.
    pub fn chunk(&self) -> Option<ChunkName> {
        match self {
            Self::RunBegins { .. } => None,
            Self::Placed { chunk, .. }
            | Self::TakenBack { chunk, .. }
            | Self::Waits { chunk, .. }
            | Self::Started { chunk, .. }
            | Self::Failed { chunk, .. }
            | Self::Ended { chunk, .. }
            | Self::Done { chunk, .. }
            | Self::GivenUp { chunk, .. } => Some(*chunk),
        }
    }
}
