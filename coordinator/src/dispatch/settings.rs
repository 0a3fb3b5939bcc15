//! The settings of a coordinator and of a job, which the command line makes and the dispatcher reads.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::nats::lease::{Contention, LeaseTtl};
use latentfarm_common::queues::{DEFAULT_PRIORITY, Lane, Queue};
use latentfarm_common::tags::Tags;

use super::delay::drawn;
use crate::job::retry::RetryDelay;
use crate::placement::{CpuFallback, JobNeeds, OneKind};

/// How long a chunk that fits no live worker waits for a bigger one by default, and a job without any worker
/// for one. A machine that restarts is back within it, and a job that nobody watches does not wait all night.
pub const DEFAULT_UNPLACEABLE_WAIT: Duration = Duration::from_mins(10);

/// The settings of a render, which has a farm to itself.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    pub farm: FarmSettings,
    pub job: JobSettings,
}

/// How one coordinator runs a farm, whatever the number of its jobs.
#[derive(Clone, Debug)]
pub struct FarmSettings {
    /// The name of this coordinator, which another one that cannot get the lease reports.
    pub holder: String,
    /// What happens if another coordinator holds the lease. It may be seized only if a lock proves that no
    /// other coordinator, nor a worker of one, is alive.
    pub contention: Contention,
    pub lease_time: LeaseTtl,
    /// One chunk of so many is rendered again on another worker of the same numeric kind, and compared; none if `None`.
    pub spot_check: Option<NonZeroU32>,
    pub timeouts: Timeouts,
}

/// How one job is dispatched.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// The folder that holds the job's manifest and its journal.
    pub job_dir: PathBuf,
    /// The job's priority in `0..PRIORITIES`; 0 goes first. Each priority has queues of its own, and workers
    /// pull from the more urgent ones first. A render has the farm to itself and uses the default.
    pub priority: u8,
    /// The predicted memory needs by kind of device.
    pub needs: JobNeeds,
    pub cpu_fallback: CpuFallback,
    /// What is rendered by machines of one numeric kind only; `None` if the kinds may mix.
    pub one_kind: Option<OneKind>,
    /// The tags that a worker must have to be given any task of the job.
    pub needed_tags: Tags,
    /// How long a chunk that fits no live worker waits for a bigger one, and the job for any worker at all.
    pub unplaceable_wait: Duration,
    /// How the operator starts a worker of this farm or finds out why none starts, in one clause.
    pub start_worker: String,
    /// Whether the job is rendered even if no frame has a face; every frame passes through unchanged then.
    pub allow_no_face: bool,
}

/// The dispatcher's delays and periods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The time between two comparisons with the queue.
    pub reconcile_interval: Duration,
    /// The least time between two placements; changes within it take effect at its end.
    pub placement_interval: Duration,
    /// A worker that has sent no heartbeat for this long is lost.
    pub worker_timeout: Duration,
    /// How long a result waits for the report of its worker that shows that the result is its own.
    pub report_wait: Duration,
    /// The delay before each attempt at a chunk that failed.
    pub retry: Backoff,
    /// How long a chunk of an earlier coordinator is left to the worker that may still run it.
    pub adopt_timeout: Duration,
    /// How long a drain waits for the chunks that are running.
    pub drain_timeout: Duration,
    /// How long after its task was removed a chunk is published again, because a worker may have pulled the
    /// task just before.
    pub reassign_delay: Duration,
    /// How long a worker that fails what others finish gets no task.
    pub set_aside: Backoff,
    /// How long other processes must have held a GPU's memory before it no longer counts as available.
    pub tenant_grace_period: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            reconcile_interval: Duration::from_mins(1),
            placement_interval: Duration::from_millis(250),
            worker_timeout: Duration::from_secs(10),
            report_wait: Duration::from_secs(10),
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            adopt_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_mins(10),
            reassign_delay: Duration::from_millis(250),
            set_aside: Backoff::new(Duration::from_mins(1), Duration::from_mins(10)),
            tenant_grace_period: Duration::from_secs(30),
        }
    }
}

impl Timeouts {
    /// The delay before a chunk is published again after `tries` attempts that ended without a result.
    pub(super) fn delay(&self, delay: RetryDelay, tries: u32) -> Duration {
        match delay {
            RetryDelay::Immediate => Duration::ZERO,
            RetryDelay::Shortest => drawn(self.retry.delay_for(0)),
            RetryDelay::Exponential => drawn(self.retry.delay_for(tries.saturating_sub(1) as usize)),
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
                lease_time: LeaseTtl::default(),
                spot_check: None,
                timeouts: Timeouts::default(),
            },
            job: JobSettings {
                job_dir,
                priority: DEFAULT_PRIORITY,
                needs,
                cpu_fallback: CpuFallback::default(),
                one_kind: None,
                needed_tags: Tags::NONE,
                unplaceable_wait: DEFAULT_UNPLACEABLE_WAIT,
                start_worker: "start one with `latentfarm-worker run --nats URL --weights DIR`".to_owned(),
                allow_no_face: false,
            },
        }
    }
}

impl JobSettings {
    /// The queue of the job's tasks for machines of this lane. Of several tags that the job needs, the queue has the first,
    /// and a task names all.
    pub(super) fn queue(&self, lane: Lane) -> Queue {
        let (priority, tag) = (self.priority, self.needed_tags.first());
        let lane = Lane { tag, ..lane };
        Queue { lane, priority }
    }
}
