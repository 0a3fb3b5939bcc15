//! The entries of a job's journal. The dispatcher writes one for each decision and each event as it happens;
//! `explain` reads them, and so does a coordinator that resumes a job, for the memory history of its chunks.

use latentfarm_common::ids::{Attempt, ChunkName, JobId, WorkerId};
use latentfarm_common::queues::Queue;
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryRequirements, MemoryUse};
use latentfarm_common::wire::outcome::Failure;
use serde::{Deserialize, Serialize};

use crate::placement::CpuFallback;

/// One line of a journal: a flat JSON object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalLine {
    /// The time in milliseconds since the Unix epoch; 0 if it is not known.
    pub at_ms: u64,
    #[serde(flatten)]
    pub entry: JournalEntry,
}

/// What was decided about one chunk or happened to it, or that a run of the job began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum JournalEntry {
    /// A coordinator began to dispatch the job, or took it over from an earlier coordinator.
    RunBegins {
        job: JobId,
        /// The revision of the coordinator's lease.
        epoch: u64,
        analyze_chunks: usize,
        render_chunks: usize,
        /// The frames of the output.
        frames: u64,
        /// The frames of a render chunk; the last one may have fewer.
        chunk_frames: u32,
        /// `None` if the setting is not known, because `explain --nats` built this line from the farm's
        /// records in place of a journal.
        cpu_fallback: Option<CpuFallback>,
        unplaceable_wait_seconds: u64,
        /// The tags that a worker must have to be given a task of the job.
        #[serde(default, skip_serializing_if = "Tags::is_empty")]
        needed_tags: Tags,
    },
    /// A task of the chunk was published to a queue.
    Placed {
        chunk: ChunkName,
        attempt: Attempt,
        queue: Queue,
        /// The kind of device of the queue's workers.
        kind: DeviceKind,
        /// The first memory plan that the attempt may use.
        floor: MemoryPlan,
        /// The memory that the leanest plan needs, and on the CPU the media process beside it.
        need_mib: u64,
        /// The memory that the engine needs under each plan.
        needs: MemoryRequirements,
        /// Why this queue was chosen.
        why: String,
    },
    /// A task that no worker had begun was removed from its queue, because another queue is better now. The
    /// chunk is placed again.
    Reassigned {
        chunk: ChunkName,
        attempt: Attempt,
        queue: Queue,
        why: String,
    },
    /// The chunk fits no worker that is alive now. It waits for one, until `unplaceable_wait_seconds` have
    /// passed.
    Unschedulable { chunk: ChunkName, why: String },
    /// A worker began the task.
    Started {
        chunk: ChunkName,
        attempt: Attempt,
        worker: WorkerId,
    },
    /// A worker reported that the attempt failed.
    Failed {
        chunk: ChunkName,
        attempt: Attempt,
        worker: WorkerId,
        failure: Failure,
        /// The queue that the chunk was placed in; `None` if a later attempt was under way or the chunk was
        /// done, so that the failure had no consequence.
        queue: Option<Queue>,
        /// What follows for the next attempt, in one clause; `None` if nothing changes.
        consequence: Option<String>,
    },
    /// The coordinator ended the attempt: its worker was lost, its task vanished from the queue, or its
    /// result did not pass verification.
    Ended {
        chunk: ChunkName,
        attempt: Attempt,
        reason: String,
        /// What follows for the next attempt, in one clause; `None` if nothing changes.
        consequence: Option<String>,
    },
    /// The attempt's done record passed verification, and the chunk is finished.
    Done {
        chunk: ChunkName,
        attempt: Attempt,
        worker: WorkerId,
        frames: u64,
        numerics_fingerprint: String,
        memory: Option<MemoryUse>,
    },
    /// A worker is unfit by its own report, or gets no task for a while because it fails what others finish.
    SetAside {
        worker: WorkerId,
        reason: String,
        /// How long; `None` if the worker itself decides when it tries again.
        pause_seconds: Option<u64>,
    },
    /// The chunk has failed on enough workers, or no attempt can help. The next run of the job tries it again.
    Quarantined { chunk: ChunkName, reason: String },
}

impl JournalEntry {
    /// The chunk that the entry is about; `None` if it is about the whole job.
    pub fn chunk(&self) -> Option<ChunkName> {
        match self {
            Self::RunBegins { .. } | Self::SetAside { .. } => None,
            Self::Placed { chunk, .. }
            | Self::Reassigned { chunk, .. }
            | Self::Unschedulable { chunk, .. }
            | Self::Started { chunk, .. }
            | Self::Failed { chunk, .. }
            | Self::Ended { chunk, .. }
            | Self::Done { chunk, .. }
            | Self::Quarantined { chunk, .. } => Some(*chunk),
        }
    }
}
