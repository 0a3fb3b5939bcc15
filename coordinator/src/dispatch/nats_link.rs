//! The link to a farm whose server is a NATS server. A coordinator opens one when it begins to dispatch.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::error::one_line;
use latentfarm_common::frame::PictureDifference;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::nats::Outage;
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::done::{DoneEntry, DoneLog};
use latentfarm_common::nats::subjects::{self, Subject};
use latentfarm_common::nats::tasks::{Published, TaskStream};
use latentfarm_common::nats::topology::{self, QueueLoad};
use latentfarm_common::queues::Queue;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::outcome::{DoneRecord, FaceObservations, FrameObservation, WorkerCommand};
use latentfarm_common::wire::task::Task;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::command;
use super::error::DispatchError;
use super::farm::Farm;
use super::farm_link::{Answer, FarmLink};
use super::farm_message::FarmMessage;
use super::followers;
use super::need_estimator::NeedEstimator;
use super::segment_reader::SegmentReader;
use super::signers::Signers;
use crate::segment_check::{BadSegment, ExpectedPictures};

/// The number of attempts to read a blob while the store does not answer.
const READ_ATTEMPTS: u32 = 5;
const READ_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));

/// The link of a coordinator to its farm.
pub(super) struct NatsLink {
    farm: Farm,
    reader: SegmentReader,
    task_stream: TaskStream,
    done_log: DoneLog,
}

impl NatsLink {
    /// Uses a farm whose streams exist; `reader` looks into segments.
    pub(super) fn new(farm: &Farm, reader: SegmentReader) -> Self {
        Self {
            task_stream: TaskStream::new(&farm.connection, farm.topology),
            done_log: DoneLog::new(&farm.connection),
            farm: farm.clone(),
            reader,
        }
    }
}

impl FarmLink for NatsLink {
    fn is_up(&self) -> bool {
        self.farm.connection.is_up()
    }

    fn outage(&self) -> Option<Outage> {
        self.farm.connection.outage()
    }

    fn url(&self) -> &str {
        self.farm.connection.url()
    }

    fn store_url(&self) -> &str {
        self.farm.store.url()
    }

    fn follow_workers(&self, to: mpsc::Sender<FarmMessage>) -> Answer<'_, JoinSet<()>> {
        Box::pin(followers::of_workers(&self.farm.connection, to))
    }

    fn follow_job(
        &self,
        job: JobId,
        first_done: u64,
        to: mpsc::Sender<FarmMessage>,
    ) -> Answer<'_, JoinSet<()>> {
        Box::pin(followers::of_job(&self.farm.connection, job, first_done, to))
    }

    fn publish<'a>(&'a self, queue: Queue, tasks: &'a [Task]) -> Answer<'a, Vec<Published>> {
        Box::pin(async move {
            let published = self.task_stream.publish_all(queue, tasks).await;
            published.map_err(DispatchError::Tasks)
        })
    }

    fn remove_tasks(&self, chunk: ChunkId) -> Answer<'_, u64> {
        Box::pin(async move {
            let removed = self.task_stream.remove_chunk(chunk).await;
            removed.map_err(DispatchError::Tasks)
        })
    }

    fn remove_tasks_of_job(&self, job: JobId) -> Answer<'_, u64> {
        Box::pin(async move {
            let removed = self.task_stream.remove_job(job).await;
            removed.map_err(DispatchError::Tasks)
        })
    }

    fn tasks(&self, job: JobId) -> Answer<'_, Vec<Task>> {
        Box::pin(async move {
            let (client, filter) = (&self.farm.connection.client, subjects::tasks_of_job(job));
            let mut reader = DirectReader::new(client, topology::TASKS, &filter, 1);
            let mut tasks = Vec::new();
            while let Some(message) = reader.next().await.map_err(DispatchError::at("read the tasks"))? {
                tasks.extend(wire::decode::<Task>(&message.payload).ok());
            }
            Ok(tasks)
        })
    }

    fn queued(&self, job: JobId) -> Answer<'_, Vec<(Queue, ChunkId)>> {
        Box::pin(async move {
            let queued = self.task_stream.queued(job).await;
            queued.map_err(DispatchError::Tasks)
        })
    }

    fn queue_load(&self, queue: Queue) -> Answer<'_, Option<QueueLoad>> {
        Box::pin(async move {
            let load = topology::queue_load(&self.farm.connection.context, queue).await;
            load.map_err(DispatchError::at("read how full a queue is"))
        })
    }

    fn record(&self, chunk: ChunkId) -> Answer<'_, Option<DoneEntry>> {
        Box::pin(async move {
            let found = self.done_log.get(chunk).await;
            found.map_err(DispatchError::at("use the done log"))
        })
    }

    fn records(&self, job: JobId) -> Answer<'_, Vec<DoneEntry>> {
        Box::pin(async move {
            let found = self.done_log.list(job).await;
            found.map_err(DispatchError::at("use the done log"))
        })
    }

    fn commit(&self, record: DoneRecord) -> Answer<'_, ()> {
        Box::pin(async move {
            let committed = self.done_log.commit(&record).await;
            let committed = committed.map_err(DispatchError::at("use the done log"));
            committed.map(|_outcome| ())
        })
    }

    fn retract(&self, chunk: ChunkId, sequence: u64) -> Answer<'_, ()> {
        Box::pin(async move {
            let removed = self.done_log.retract(chunk, sequence).await;
            let removed = removed.map_err(DispatchError::at("use the done log"));
            removed.map(|_was_there| ())
        })
    }

    fn put(&self, bytes: Vec<u8>) -> Answer<'_, BlobRef> {
        Box::pin(async move {
            let stored = self.farm.store.put_bytes(bytes).await;
            stored.map_err(|error| DispatchError::Store(Box::new(error)))
        })
    }

    fn verify(
        &self,
        record: Arc<DoneRecord>,
        range: FrameRange,
        expected: Option<ExpectedPictures>,
    ) -> BoxFuture<'_, Result<Vec<FrameObservation>, BadSegment>> {
        Box::pin(async move {
            match record.chunk.work {
                WorkKind::Analyze => {
                    let observed = observations(&self.farm, &record, range).await;
                    observed.map_err(BadSegment::Broken)
                }
                WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => {
                    let expected = Arc::new(expected);
                    // A result that cannot be read during an outage is not a bad one.
                    let done = self
                        .farm
                        .connection
                        .outlast(|| {
                            let (check, record) = (Arc::clone(&self.reader.check), Arc::clone(&record));
                            let expected = Arc::clone(&expected);
                            beside(
                                move || check(&record, range, expected.as_ref().as_ref()),
                                BadSegment::Broken,
                            )
                        })
                        .await;
                    done.map(|()| Vec::new())
                }
            }
        })
    }

    fn compare(&self, original: BlobRef, again: BlobRef) -> BoxFuture<'_, Result<PictureDifference, String>> {
        Box::pin(self.farm.connection.outlast(move || {
            let compare = Arc::clone(&self.reader.compare);
            beside(move || compare(&original, &again), |cut_short| cut_short)
        }))
    }

    fn command(&self, to: Option<WorkerId>, command: WorkerCommand) -> Answer<'_, ()> {
        Box::pin(async move {
            let sent = command::send(&self.farm.connection, to, &command).await;
            sent.map_err(DispatchError::at("send a command"))
        })
    }

    fn announce(&self, queue: Queue) -> Answer<'_, ()> {
        Box::pin(async move {
            let subject = Subject::Wake(queue.lane.class).to_string();
            let payload = queue.to_string().into();
            let sent = self.farm.connection.client.publish(subject, payload).await;
            sent.map_err(DispatchError::at("announce a task"))
        })
    }

    fn read_estimates<'a>(
        &'a self,
        estimator: &'a mut NeedEstimator,
        model: &'a ModelSpec,
    ) -> BoxFuture<'a, ()> {
        Box::pin(estimator.read(&self.farm.connection, model))
    }

    fn write_estimates<'a>(&'a self, estimator: &'a mut NeedEstimator, last: bool) -> BoxFuture<'a, ()> {
        Box::pin(estimator.write(&self.farm.connection, last))
    }

    fn read_signers(&self) -> Answer<'_, Signers> {
        Box::pin(async move {
            let read = Signers::read(&self.farm.connection).await;
            read.map_err(DispatchError::at("read the keys of workers"))
        })
    }

    fn write_signers<'a>(&'a self, signers: &'a mut Signers) -> BoxFuture<'a, ()> {
        Box::pin(signers.write(&self.farm.connection))
    }
}

/// Looks into segments on a thread for blocking work.
async fn beside<T: Send + 'static, E: Send + 'static>(
    look: impl FnOnce() -> Result<T, E> + Send + 'static,
    cut_short: impl FnOnce(String) -> E,
) -> Result<T, E> {
    let done = tokio::task::spawn_blocking(look).await;
    done.unwrap_or_else(|error| Err(cut_short(format!("the verification was cut short: {error}"))))
}

async fn observations(
    farm: &Farm,
    record: &DoneRecord,
    range: FrameRange,
) -> Result<Vec<FrameObservation>, String> {
    let read = farm.connection.outlast(|| read(&farm.store, record));
    let bytes = read.await.map_err(|error| one_line(&error))?;
    let observations: FaceObservations = wire::decode(&bytes).map_err(|error| one_line(&error))?;
    let found = observations.frames.len() as u64;
    if found == range.len() {
        Ok(observations.frames)
    } else {
        Err(format!(
            "it holds the faces of {found} frames instead of {}",
            range.len()
        ))
    }
}

/// Reads the artifact of a record. A store that does not answer is tried again; a blob that is missing or
/// damaged is an error at once.
async fn read(store: &Store, record: &DoneRecord) -> Result<Vec<u8>, BlobError> {
    let mut backoff = READ_BACKOFF;
    let mut tries = 1;
    loop {
        match store.get_bytes(&record.artifact).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if tries == READ_ATTEMPTS || !error.may_pass() => return Err(error),
            Err(error) => {
                tracing::warn!(chunk = %record.chunk, error = one_line(&error), "cannot read a result yet");
                tokio::time::sleep(backoff.next_delay()).await;
                tries += 1;
            }
        }
    }
}
