//! The attempts at a chunk that could not begin, because the memory that its worker had offered was gone when
//! it took the task. The chunk's [record](super::record::ChunkRecord) keeps them until the chunk begins.

use latentfarm_common::ids::WorkerId;
use latentfarm_common::queues::ResourceClass;
use tokio::time::Instant;

use crate::placement::gib;

/// A chunk that was refused this often waits for memory like one that fits no worker. Before that another
/// program may have come and gone.
pub const REFUSAL_LIMIT: u32 = 3;

/// A series of refusals of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals {
    pub count: u32,
    /// The time of the first one, from which the wait is counted.
    pub since: Instant,
    /// The class of the queue from which the chunk was last taken, if that is known.
    pub class: Option<ResourceClass>,
    pub needed_mib: u64,
    /// What the last worker had free, in MiB.
    free_mib: u64,
    worker: WorkerId,
}

impl Refusals {
    /// Adds a refusal by `worker` to an earlier series, or begins one.
    pub fn after(
        earlier: Option<&Self>,
        worker: &WorkerId,
        class: Option<ResourceClass>,
        (needed_mib, free_mib): (u64, u64),
        now: Instant,
    ) -> Self {
        Self {
            count: earlier.map_or(0, |earlier| earlier.count) + 1,
            since: earlier.map_or(now, |earlier| earlier.since),
            class,
            needed_mib,
            free_mib,
            worker: worker.clone(),
        }
    }

    /// Whether the chunk waits for memory by now.
    pub fn is_wait(&self) -> bool {
        self.count >= REFUSAL_LIMIT
    }

    /// Describes the shortage in one line, for logs and reports.
    pub fn describe(&self) -> String {
        let (needed, free) = (gib(self.needed_mib), gib(self.free_mib));
        format!(
            "needs {needed}, and {} had only {free} free when it took the chunk ({} times)",
            self.worker, self.count
        )
    }
}
