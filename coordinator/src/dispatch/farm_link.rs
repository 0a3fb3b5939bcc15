//! All that the dispatcher does outside its process: it reads and writes the task queue, the done log and the blob store,
//! and sends commands to workers. On a farm that is a NATS server ([`NatsLink`](super::nats_link)); the simulation of the
//! dispatcher has a farm of its own. What is decided stands on the other side of this seam.

use std::sync::Arc;

use futures::future::BoxFuture;
use latentfarm_common::frame::PictureDifference;
use latentfarm_common::ids::{ChunkId, JobId, WorkerId};
use latentfarm_common::nats::Outage;
use latentfarm_common::nats::done::DoneEntry;
use latentfarm_common::nats::tasks::Published;
use latentfarm_common::nats::topology::QueueLoad;
use latentfarm_common::queues::Queue;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::outcome::{DoneRecord, FrameObservation, WorkerCommand};
use latentfarm_common::wire::task::Task;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::DispatchError;
use super::farm_message::FarmMessage;
use super::need_estimator::NeedEstimator;
use super::signers::Signers;
use crate::segment_check::{BadSegment, ExpectedPictures};

/// What the farm answers, some time later.
pub(super) type Answer<'a, T> = BoxFuture<'a, Result<T, DispatchError>>;

/// The link of one coordinator to its farm.
pub(super) trait FarmLink: Send + Sync {
    /// Whether the link to the farm's server is up.
    fn is_up(&self) -> bool;
    /// The outage of the link, if there is one.
    fn outage(&self) -> Option<Outage>;
    /// The address of the farm's server.
    fn url(&self) -> &str;
    /// The address of the blob store, under which workers reach it.
    fn store_url(&self) -> &str;

    /// Passes on the heartbeats of all workers until the tasks are dropped.
    fn follow_workers(&self, to: mpsc::Sender<FarmMessage>) -> Answer<'_, JoinSet<()>>;
    /// Passes on a job's done records from the sequence number `first_done` on, and its new events.
    fn follow_job(
        &self,
        job: JobId,
        first_done: u64,
        to: mpsc::Sender<FarmMessage>,
    ) -> Answer<'_, JoinSet<()>>;

    /// Publishes tasks to one queue, in no particular order. After an error some of them may have been published.
    fn publish<'a>(&'a self, queue: Queue, tasks: &'a [Task]) -> Answer<'a, Vec<Published>>;
    /// Removes the tasks for a chunk from every queue. Returns their number.
    fn remove_tasks(&self, chunk: ChunkId) -> Answer<'_, u64>;
    /// Removes the tasks of a job from every queue. Returns their number.
    fn remove_tasks_of_job(&self, job: JobId) -> Answer<'_, u64>;
    /// Reads the tasks of a job that can be decoded.
    fn tasks(&self, job: JobId) -> Answer<'_, Vec<Task>>;
    /// Lists the chunks of a job that have a task, with the queues.
    fn queued(&self, job: JobId) -> Answer<'_, Vec<(Queue, ChunkId)>>;
    /// Reads how full a queue is; `None` if it does not exist yet.
    fn queue_load(&self, queue: Queue) -> Answer<'_, Option<QueueLoad>>;

    /// Reads the done record of a chunk, if there is one.
    fn record(&self, chunk: ChunkId) -> Answer<'_, Option<DoneEntry>>;
    /// Reads all done records of a job, oldest first.
    fn records(&self, job: JobId) -> Answer<'_, Vec<DoneEntry>>;
    /// Makes a record its chunk's result, unless there is one.
    fn commit(&self, record: DoneRecord) -> Answer<'_, ()>;
    /// Removes a record of a chunk from the done log, if it is still there.
    fn retract(&self, chunk: ChunkId, sequence: u64) -> Answer<'_, ()>;

    /// Stores a blob.
    fn put(&self, bytes: Vec<u8>) -> Answer<'_, BlobRef>;
    /// Verifies what a record names, whose own figures fit its chunk of these frames. Returns the observations of an
    /// analysis; none of a render chunk.
    fn verify(
        &self,
        record: Arc<DoneRecord>,
        range: FrameRange,
        expected: Option<ExpectedPictures>,
    ) -> BoxFuture<'_, Result<Vec<FrameObservation>, BadSegment>>;
    /// Compares the first pictures of two segments. An error is one clause that says what is wrong.
    fn compare(&self, original: BlobRef, again: BlobRef) -> BoxFuture<'_, Result<PictureDifference, String>>;

    /// Sends a command to one worker, or to all. It may be lost.
    fn command(&self, to: Option<WorkerId>, command: WorkerCommand) -> Answer<'_, ()>;
    /// Has idle workers look into a queue. It may be lost.
    fn announce(&self, queue: Queue) -> Answer<'_, ()>;

    /// Reads the estimates for a model, unless they were read already.
    fn read_estimates<'a>(
        &'a self,
        estimator: &'a mut NeedEstimator,
        model: &'a ModelSpec,
    ) -> BoxFuture<'a, ()>;
    /// Writes the estimates that have changed, now and then, and the `last` ones at once.
    fn write_estimates<'a>(&'a self, estimator: &'a mut NeedEstimator, last: bool) -> BoxFuture<'a, ()>;
    /// Reads the keys of workers that coordinators of the farm have stored.
    fn read_signers(&self) -> Answer<'_, Signers>;
    /// Stores the keys of workers that were learned since the last call.
    fn write_signers<'a>(&'a self, signers: &'a mut Signers) -> BoxFuture<'a, ()>;
}
