//! The interface between the worker's loop and whoever runs its tasks: the supervisor's `Runner`, or a
//! stand-in.

use std::path::PathBuf;

use latentfarm_common::blob::Store;
use latentfarm_common::nats::Connection;
use latentfarm_common::queues::Available;
use latentfarm_common::wire::memory::MemoryUse;
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings};
use latentfarm_common::wire::task::Task;
use tokio::sync::watch;

use super::progress::Progress;

/// The result of a chunk, before it is stored as a blob.
#[derive(Clone, Debug)]
pub enum Artifact {
    /// A file, which the runner may remove at its next task.
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// The output of a task that was run to its end.
#[derive(Clone, Debug)]
pub struct TaskOutput {
    pub artifact: Artifact,
    pub body: DoneBody,
    pub timings: StageTimings,
    /// Names the build, the instruction set and the device: results of equal fingerprints are equal bit for
    /// bit.
    pub numerics_fingerprint: String,
    /// The memory that the task used; `None` if no model ran.
    pub memory: Option<MemoryUse>,
}

/// A task to run, with what the runner needs for it.
#[derive(Debug)]
pub struct Assignment<'a> {
    pub task: &'a Task,
    /// The store that holds the task's blobs.
    pub store: &'a Store,
    /// The link to the server: what cannot be read in an outage is read again after it. `None` if the store
    /// needs no server.
    pub link: Option<&'a Connection>,
    /// Every step is reported to it; without steps the broker gives the task to another worker.
    pub progress: &'a Progress,
    /// Becomes true when the task is cancelled or the worker must leave: the runner then returns soon, with
    /// any failure.
    pub stop: watch::Receiver<bool>,
}

/// Runs tasks for the worker's loop.
pub trait TaskRunner: Send {
    /// Returns the memory that a task could use at this moment. The loop calls it before every pull.
    fn available(&mut self) -> impl Future<Output = Available> + Send;

    /// Describes in one clause why no render task fits, for the log of a worker that waits for memory.
    fn shortage(&self) -> String {
        "no class of render tasks fits".to_owned()
    }

    /// Gives back the memory that is kept for the next task, because another worker's task needs it.
    fn free_memory(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Runs one task. The future is dropped if it does not return in time after `stop`.
    fn run(&mut self, assignment: Assignment<'_>)
    -> impl Future<Output = Result<TaskOutput, Failure>> + Send;
}
