//! What the worker's loop asks of whoever runs its tasks.

use std::path::PathBuf;

use latentfarm_common::blob::Store;
use latentfarm_common::queues::Available;
use latentfarm_common::wire::memory::MemoryUse;
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings};
use latentfarm_common::wire::task::Task;
use tokio::sync::watch;

use super::progress::Progress;

/// What a chunk's result is made of.
#[derive(Clone, Debug)]
pub enum Artifact {
    /// A file; it may be removed once `run`'s caller is done, at the next call of the runner.
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// A task that was run to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    pub artifact: Artifact,
    pub body: DoneBody,
    pub timings: StageTimings,
    /// Build + instruction set + device: results of equal kinds are equal bit for bit.
    pub numerics_fingerprint: String,
    /// `None` where no model ran.
    pub memory: Option<MemoryUse>,
}

/// A task to run, and what it takes.
#[derive(Debug)]
pub struct Assignment<'a> {
    pub task: &'a Task,
    /// Where the task's blobs are.
    pub store: &'a Store,
    /// To be told of every step; without steps the broker gives the task to another worker.
    pub progress: &'a Progress,
    /// Becomes true when the task is cancelled or the worker must leave: return soon, with any failure.
    pub stop: watch::Receiver<bool>,
}

/// Runs tasks: the supervisor with its children, or a stand-in in tests.
pub trait TaskRunner: Send {
    /// What fits at this moment; asked before every pull.
    fn available(&mut self) -> impl Future<Output = Available> + Send;

    /// Runs one task. The future may be dropped where it does not return in time after `stop`.
    fn run(&mut self, assignment: Assignment<'_>) -> impl Future<Output = Result<Finished, Failure>> + Send;
}
