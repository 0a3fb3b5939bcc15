//! How often the worker's loop does what.

use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::ack::PROGRESS_INTERVAL;

/// The loop's intervals; the defaults are right outside tests.
#[derive(Clone, Debug)]
pub struct Settings {
    pub worker: WorkerId,
    /// How long one queue is waited on before all are looked at again.
    pub poll: Duration,
    pub heartbeat: Duration,
    /// How often the broker is told that work advances; a third of the queues' `ack_wait`.
    pub tell_progress: Duration,
    /// How long a runner that was told to stop may take before it is dropped.
    pub stop_grace: Duration,
    /// How long a worker that is unfit waits before it tries again.
    pub unfit_waits: Backoff,
}

impl Settings {
    pub fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            poll: Duration::from_secs(5),
            heartbeat: Duration::from_secs(2),
            tell_progress: PROGRESS_INTERVAL,
            stop_grace: Duration::from_secs(10),
            unfit_waits: Backoff::new(Duration::from_secs(2), Duration::from_mins(2)),
        }
    }
}
