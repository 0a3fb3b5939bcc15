//! The intervals and time limits of the worker's loop.

use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::ack::PROGRESS_INTERVAL;
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::tags::Tags;

use super::off_duty::OffDuty;

/// The settings of the worker's loop. Tests shorten the intervals; all else uses the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    pub worker: WorkerId,
    /// The numeric kind of the machine, if tasks for that kind are taken too.
    pub kind: Option<NumericKind>,
    /// Whether the worker's own settings keep it from taking tasks.
    pub off_duty: OffDuty,
    /// The tags of the worker: tasks that need some of these, and no other ones, are taken too.
    pub tags: Tags,
    /// How long the loop waits for a task on one queue before it checks all queues again.
    pub poll_interval: Duration,
    /// How often a heartbeat is published.
    pub heartbeat_interval: Duration,
    /// How often an in-progress acknowledgement is sent while work advances; a third of the queues'
    /// `ack_wait`.
    pub progress_interval: Duration,
    /// How long a runner may take to stop on request before its task is dropped.
    pub stop_grace: Duration,
    /// How long an unfit worker waits before it tries again.
    pub unfit_backoff: Backoff,
    /// How long a worker waits after each failed task that follows another one, so that it does not use up the attempts
    /// of all chunks while others are at work.
    pub failure_backoff: Backoff,
}

impl Settings {
    pub fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            kind: None,
            off_duty: OffDuty::default(),
            tags: Tags::NONE,
            poll_interval: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(2),
            progress_interval: PROGRESS_INTERVAL,
            stop_grace: Duration::from_secs(10),
            unfit_backoff: Backoff::new(Duration::from_secs(2), Duration::from_mins(2)),
            failure_backoff: Backoff::new(Duration::from_secs(1), Duration::from_mins(1)),
        }
    }
}
