//! What happens to the processes of a local farm.

use std::time::Duration;

use latentfarm_common::ids::WorkerId;

/// Something that the operator should read.
#[derive(Clone, Debug)]
pub enum LocalNotice {
    WorkerDied {
        worker: WorkerId,
        how: String,
        restarts_in: Duration,
    },
    /// Not started again; `why` ends in the last line of its log.
    WorkerGivenUp {
        worker: WorkerId,
        why: String,
    },
    ServerRestarted {
        how: String,
    },
    /// The private server is gone for good: the job cannot go on.
    ServerLost {
        why: String,
    },
}
