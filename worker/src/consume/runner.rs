//! The interface between the worker's loop and whoever runs its tasks: the supervisor's `Runner`, or a
//! stand-in.

use std::any::Any;
use std::sync::Arc;

use futures::future::BoxFuture;
use latentfarm_common::blob::Store;
use latentfarm_common::nats::Connection;
use latentfarm_common::queues::Available;
use latentfarm_common::wire::memory::{MemoryUse, RenderMemory};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings};
use latentfarm_common::wire::task::Task;
use tempfile::TempPath;
use tokio::sync::watch;

use super::progress::Progress;

/// The result of a chunk, before it is stored as a blob.
#[derive(Clone, Debug)]
pub enum Artifact {
    /// A file, which goes when the artifact is dropped.
    File(Arc<TempPath>),
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
    pub progress: &'a Arc<Progress>,
    /// Becomes true when the task is cancelled or the worker must leave: the runner then returns soon, with
    /// any failure.
    pub stop: watch::Receiver<bool>,
    /// Whether the worker held the task while it ran the one before.
    pub was_held: bool,
    /// What the runner's [`Prepare`] has made for the task.
    pub prepared: Option<Prepared>,
}

/// The rest of a task whose device is free again: its last frames are encoded beside the next task.
pub type Finish = BoxFuture<'static, Result<TaskOutput, Failure>>;

/// What was made for a task before it is begun, known to its runner alone. Dropping it ends the preparation.
pub type Prepared = Box<dyn Any + Send>;

/// Fetches the inputs of a task before it is begun, beside the one that runs.
pub trait Prepare: Send + Sync {
    /// Begins to prepare this task, in the background; `None` if there is nothing to prepare.
    fn prepare(&self, task: &Task, store: &Store, link: &Connection) -> Option<Prepared>;
}

/// Runs tasks for the worker's loop.
pub trait TaskRunner: Send {
    /// Returns the memory that a task could use at this moment. The loop calls it before every pull.
    fn available(&mut self) -> impl Future<Output = Available> + Send;

    /// The memory that [`TaskRunner::available`] left out at its last call because another worker of this machine has
    /// the device, and that a task can use when this worker's turn comes.
    fn withheld(&self) -> RenderMemory {
        RenderMemory::default()
    }

    /// Makes the runner wait for its turn on the device: there is a task for which it withholds memory.
    fn need_device(&mut self) {}

    /// Returns a future that ends when [`TaskRunner::available`] may have another answer: this worker's turn on the
    /// device has come, or another worker waits for it.
    fn device_changed(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    /// Called when a pull has brought no task: the runner may let another worker have the device.
    fn rest(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Describes in one clause why no render task fits, for the log of a worker that waits for memory.
    fn shortage(&self) -> String {
        "no class of render tasks fits".to_owned()
    }

    /// Gives back the memory that is kept for the next task, because another worker's task needs it.
    fn free_memory(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Returns what prepares tasks beside the one that runs; `None` if nothing does.
    fn preparer(&self) -> Option<Arc<dyn Prepare>> {
        None
    }

    /// Runs one task until its device is free for the next one. The future is dropped if it does not return in
    /// time after `stop`.
    fn run(&mut self, assignment: Assignment<'_>) -> impl Future<Output = Result<Finish, Failure>> + Send;
}
