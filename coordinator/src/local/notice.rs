//! Events of the processes of a local farm: unexpected ends and restarts.

use std::time::Duration;

use latentfarm_common::ids::WorkerId;

/// An event of a worker or of the private server that the operator should read. `how` is the exit status as
/// text.
#[derive(Clone, Debug)]
pub enum LocalNotice {
    WorkerDied {
        worker: WorkerId,
        how: String,
        restarts_in: Duration,
    },
    /// The worker is not started again. `why` ends with the last line of its log.
    WorkerGivenUp {
        worker: WorkerId,
        why: String,
    },
    ServerRestarted {
        how: String,
    },
    /// The private server ended and cannot be started again, so the job cannot go on.
    ServerLost {
        why: String,
    },
}
