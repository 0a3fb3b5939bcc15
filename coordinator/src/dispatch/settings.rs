//! How a farm is coordinated, and how a job on it is dispatched.

use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::nats::lease::{Contention, LeaseTime};
use latentfarm_common::queues::{DEFAULT_PRIORITY, Queue, ResourceClass};

use crate::job::retry::Wait;
use crate::placement::{CpuFallback, JobNeeds};

/// How long a chunk that fits no live worker waits for a bigger one, if nothing else is said.
pub const DEFAULT_UNPLACEABLE_WAIT: Duration = Duration::from_mins(10);

/// Everything that a render on its own farm is dispatched with.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    pub farm: FarmSettings,
    pub job: JobSettings,
}

/// How one coordinator runs a farm, whatever the number of its jobs.
#[derive(Clone, Debug)]
pub struct FarmSettings {
    /// The name that another coordinator is shown which wants the lease.
    pub holder: String,
    /// What happens if another coordinator holds the lease. It may be seized only if a lock proves that no other
    /// coordinator, nor a worker of one, is alive.
    pub contention: Contention,
    pub lease_time: LeaseTime,
    pub pace: Pace,
}

/// How one job is dispatched.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// The folder that holds the job's manifest and its journal.
    pub job_dir: PathBuf,
    /// The job's priority in `0..PRIORITIES`; 0 goes first. A render has the farm for itself and names none; a farm of many jobs has an urgent
    /// one take queues of its own, which workers ask first.
    pub priority: u8,
    /// The predicted needs by kind of device.
    pub needs: JobNeeds,
    pub cpu_fallback: CpuFallback,
    /// How long a chunk that fits no live worker waits for a bigger one.
    pub unplaceable_wait: Duration,
    /// Whether the job is rendered even if no frame has a face: everything passes through untouched then.
    pub allow_no_face: bool,
}

/// The dispatcher's delays and periods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time between two comparisons with the queue.
    pub reconcile_every: Duration,
    /// The time between two placements at least; a change within it waits for its end.
    pub place_every: Duration,
    /// A worker without a heartbeat for this long is lost.
    pub worker_silence: Duration,
    /// The delay before each attempt at a chunk that failed.
    pub retry: Backoff,
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
            place_every: Duration::from_millis(250),
            worker_silence: Duration::from_secs(10),
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            adopt_wait: Duration::from_secs(5),
            drain_limit: Duration::from_mins(10),
            take_back_wait: Duration::from_millis(250),
            tenant_patience: Duration::from_secs(30),
        }
    }
}

impl Pace {
    /// The delay before a chunk is published again that ended so many attempts without a result.
    pub(super) fn delay(&self, wait: Wait, tries: u32) -> Duration {
        match wait {
            Wait::None => Duration::ZERO,
            Wait::Short => self.retry.delay_for(0),
            Wait::Growing => self.retry.delay_for(tries.saturating_sub(1) as usize),
        }
    }
}

impl DispatchSettings {
    /// The settings of a render on its own farm.
    pub fn new(job_dir: PathBuf, needs: JobNeeds) -> Self {
        Self {
            farm: FarmSettings {
                holder: format!("latentfarm, process {}", std::process::id()),
                contention: Contention::Refuse,
                lease_time: LeaseTime::default(),
                pace: Pace::default(),
            },
            job: JobSettings {
                job_dir,
                priority: DEFAULT_PRIORITY,
                needs,
                cpu_fallback: CpuFallback::default(),
                unplaceable_wait: DEFAULT_UNPLACEABLE_WAIT,
                allow_no_face: false,
            },
        }
    }
}

impl JobSettings {
    pub(super) fn queue(&self, class: ResourceClass) -> Queue {
        let priority = self.priority;
        Queue { class, priority }
    }
}
