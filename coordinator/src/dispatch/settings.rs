//! How a job is dispatched, and why it could not be.

use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::blob::BlobError;
use latentfarm_common::nats::done::DoneError;
use latentfarm_common::nats::events::EventError;
use latentfarm_common::nats::lanes::{Class, DEFAULT_PRIORITY, Lane};
use latentfarm_common::nats::lease::{Contention, LeaseError, LeaseTime};
use latentfarm_common::nats::tasks::TaskError;
use latentfarm_common::nats::topology::TopologyError;
use latentfarm_common::wire::WireError;

use super::inputs::BadTimeline;
use super::memory::{CpuFallback, JobNeeds};
use crate::job::store::ManifestError;
use crate::plan::split::InvalidChunkFrames;

/// How long a chunk that fits no live worker waits for a bigger one, if nothing else is said.
pub const DEFAULT_UNPLACEABLE_WAIT: Duration = Duration::from_mins(10);

/// How a job is dispatched.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    /// Folder of the job's manifest.
    pub job_dir: PathBuf,
    /// Shown to another coordinator that wants the lease.
    pub holder: String,
    /// `Seize` only where a lock proves that no other coordinator, nor a worker of one, is alive.
    pub contention: Contention,
    pub lease_time: LeaseTime,
    /// `0..PRIORITIES`, 0 first.
    pub priority: u8,
    /// As predicted, by kind of device.
    pub needs: JobNeeds,
    pub cpu_fallback: CpuFallback,
    /// How long a chunk that fits no live worker waits for a bigger one.
    pub unplaceable_wait: Duration,
    /// Render even if no frame has a face: everything passes through untouched.
    pub allow_no_face: bool,
    pub pace: Pace,
}

/// Times of the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two comparisons with the queue.
    pub reconcile_every: Duration,
    /// A worker without a heartbeat for this long is lost.
    pub worker_silence: Duration,
    /// Before the second attempt at a chunk that failed; doubles with each further one.
    pub retry_after: Duration,
    pub retry_after_at_most: Duration,
    /// How long a chunk of an earlier coordinator is left to the worker that may still hold it.
    pub adopt_wait: Duration,
    /// How long a drain waits for the chunks under way.
    pub drain_limit: Duration,
    /// How long a task that was taken out of the queue is left to a worker that may have pulled it just then.
    pub take_back_wait: Duration,
    /// How long other processes must have held a GPU's memory before it no longer counts as room for tasks.
    pub tenant_patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            reconcile_every: Duration::from_mins(1),
            worker_silence: Duration::from_secs(10),
            retry_after: Duration::from_secs(1),
            retry_after_at_most: Duration::from_secs(30),
            adopt_wait: Duration::from_secs(5),
            drain_limit: Duration::from_mins(10),
            take_back_wait: Duration::from_millis(250),
            tenant_patience: Duration::from_secs(30),
        }
    }
}

impl DispatchSettings {
    /// The settings of a render on its own farm.
    pub fn new(job_dir: PathBuf, needs: JobNeeds) -> Self {
        Self {
            job_dir,
            holder: format!("latentfarm, process {}", std::process::id()),
            contention: Contention::Refuse,
            lease_time: LeaseTime::default(),
            priority: DEFAULT_PRIORITY,
            needs,
            cpu_fallback: CpuFallback::default(),
            unplaceable_wait: DEFAULT_UNPLACEABLE_WAIT,
            allow_no_face: false,
            pace: Pace::default(),
        }
    }

    pub(super) fn lane(&self, class: Class) -> Lane {
        let priority = self.priority;
        Lane { class, priority }
    }
}

/// Why a job could not be dispatched. What was finished stays in the done log.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Timeline(#[from] BadTimeline),
    #[error(transparent)]
    ChunkFrames(#[from] InvalidChunkFrames),
    #[error("cannot prepare the farm's streams")]
    Topology(#[source] TopologyError),
    #[error("cannot become the coordinator")]
    Lease(#[source] LeaseError),
    #[error("another coordinator took over, or this one could not renew its lease: stopped at once")]
    LeaseLost,
    #[error("cannot follow the farm")]
    Follow(#[source] EventError),
    #[error("cannot hear the workers' heartbeats")]
    Heartbeats(#[source] async_nats::SubscribeError),
    #[error("cannot use the task queue")]
    Tasks(#[source] TaskError),
    #[error("cannot read the tasks of an earlier coordinator")]
    Leftovers(#[source] latentfarm_common::nats::direct::DirectError),
    #[error("cannot use the done log")]
    DoneLog(#[source] DoneError),
    #[error("cannot store the input of a chunk")]
    Store(#[source] Box<BlobError>),
    #[error("cannot encode the input of a chunk")]
    Encode(#[source] WireError),
}
