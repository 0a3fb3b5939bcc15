//! Publishes the tasks of chunks from the backlogs to the queues, and removes tasks from the queues and
//! records from the done log. The dispatcher owns the publisher and calls it after each event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
use latentfarm_common::nats::storage;
use latentfarm_common::nats::tasks::Published;
use latentfarm_common::queues::{Lane, Queue, ResourceClass};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire;
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::outcome::WorkerCommand;
use latentfarm_common::wire::task::{AnalyzeTask, RenderTask, Task, TaskBody};
use tokio::time::Instant;

use super::delay::drawn;
use super::error::DispatchError;
use super::farm_link::FarmLink;
use super::job::Job;
use super::lease_view::LeaseView;
use super::placer::Reassignment;
use super::publish_window::choose;
use super::reconcile::QueueView;
use super::task_inputs::{analyze_input, render_input};
use super::wait_reason::Refusal;
use super::workers::Workers;
use crate::placement::Fit;

/// When the farm has refused tasks, or the store their inputs, for this long, the dispatcher gives up.
const PUBLISH_TIMEOUT: Duration = Duration::from_mins(1);
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(2));

/// Publishes tasks to the queues, and removes them.
pub(super) struct TaskPublisher {
    pub(super) link: Arc<dyn FarmLink>,
    /// The fencing token of this coordinator.
    pub(super) epoch: u64,
    /// The failure that goes on, if the last attempt to publish failed.
    failure: Option<PublishFailure>,
}

/// A series of failed attempts to publish.
#[derive(Debug)]
struct PublishFailure {
    since: Instant,
    /// The next attempt is made at this time.
    retry_at: Instant,
    backoff: Backoff,
    /// The last error.
    refusal: Refusal,
}

impl TaskPublisher {
    pub(super) fn new(link: &Arc<dyn FarmLink>, epoch: u64) -> Self {
        Self {
            link: Arc::clone(link),
            epoch,
            failure: None,
        }
    }

    /// Fills the window of each queue from the backlogs. If the farm does not accept tasks, the next calls do
    /// nothing until a delay is over; after [`PUBLISH_TIMEOUT`] the failure is returned.
    pub(super) async fn publish(
        &mut self,
        jobs: &mut BTreeMap<JobId, Job>,
        workers: &Workers,
    ) -> Result<(), DispatchError> {
        let now = Instant::now();
        let is_waiting = |failure: &PublishFailure| now < failure.retry_at;
        if self.failure.as_ref().is_some_and(is_waiting) {
            return Ok(());
        }
        let mut result = Ok(());
        for (queue, chunks) in choose(jobs, workers, now) {
            if result.is_ok() {
                result = self.publish_to(queue, &chunks, jobs).await;
            }
        }
        let Err(error) = result else { return Ok(()) };
        let refusal = Refusal {
            error: one_line(&error),
            is_full: storage::is_full(&error),
        };
        let is_known = self
            .failure
            .as_ref()
            .is_some_and(|failure| failure.refusal == refusal);
        let failure = self.failure.get_or_insert(PublishFailure {
            since: now,
            retry_at: now,
            backoff: RETRY_BACKOFF,
            refusal: refusal.clone(),
        });
        // The job itself bounds its wait for storage.
        let is_over = now - failure.since > PUBLISH_TIMEOUT && !refusal.is_full;
        if !error.is_transient() || is_over {
            return Err(error);
        }
        if !is_known {
            tracing::warn!(error = refusal.error, "cannot publish tasks, trying again");
        }
        failure.refusal = refusal;
        failure.retry_at = Instant::now() + drawn(failure.backoff.next_delay());
        Ok(())
    }

    /// Returns why the last attempt to publish failed, if it did.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.failure.as_ref().map(|failure| failure.refusal.clone())
    }

    /// Forgets that publishing has failed, as the link is down: the time of an outage counts as no refusal.
    pub(super) fn on_outage(&mut self) {
        self.failure = None;
    }

    /// Publishes the tasks of some chunks to one queue. After an error the chunks stay in the backlog.
    async fn publish_to(
        &mut self,
        queue: Queue,
        chunks: &[ChunkId],
        jobs: &mut BTreeMap<JobId, Job>,
    ) -> Result<(), DispatchError> {
        let mut tasks = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            if let Some(job) = jobs.get_mut(&chunk.job) {
                tasks.extend(self.task(*chunk, job).await?);
            }
        }
        while !tasks.is_empty() {
            let published = self.link.publish(queue, &tasks).await.inspect_err(|_error| {
                // Some of the tasks may have been stored: they are removed before the next attempt.
                for task in &tasks {
                    let job = jobs.get_mut(&task.chunk.job);
                    if let Some(record) = job.and_then(|job| job.chunks.get_mut(task.chunk)) {
                        record.maybe_queued = true;
                    }
                }
            })?;
            let mut repeated = Vec::new();
            for (mut task, published) in tasks.into_iter().zip(published) {
                match published {
                    Published::Queued => {
                        if let Some(job) = jobs.get_mut(&task.chunk.job) {
                            job.on_enqueued(&task);
                        }
                    }
                    // An earlier run used the attempt's number not long ago.
                    Published::Duplicate => {
                        task.attempt = task.attempt.next();
                        repeated.push(task);
                    }
                }
            }
            tasks = repeated;
        }
        self.failure = None;
        Ok(())
    }

    /// Makes the task of a chunk of the backlog: stores its input, and removes other tasks of the chunk.
    /// `None` if no queue is chosen for the chunk.
    async fn task(&self, chunk: ChunkId, job: &mut Job) -> Result<Option<Task>, DispatchError> {
        let Some(record) = job.chunks.get_mut(chunk) else {
            return Ok(None);
        };
        if std::mem::take(&mut record.maybe_queued) {
            self.remove_tasks(chunk).await;
        }
        let attempt = record.state().attempt.under(self.epoch);
        let (range, scheduled) = (record.range, record.scheduled);
        let input = self.input_of(chunk, range, job).await?;
        let spec = &job.spec;
        let body = match (chunk.work, scheduled) {
            (WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck, None) => return Ok(None),
            (WorkKind::Analyze, _) => TaskBody::Analyze(AnalyzeTask {
                source: spec.source.clone(),
                range,
                input,
            }),
            (WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck, Some(scheduled)) => {
                render_task(spec, range, input, &scheduled.fit)
            }
        };
        Ok(Some(Task {
            chunk,
            attempt,
            store: self.link.store_url().to_owned(),
            excluded: Vec::new(),
            needed_tags: job.settings.needed_tags.clone(),
            body,
        }))
    }

    /// Stores the input of a task.
    pub(super) async fn put(&self, encoded: Result<Vec<u8>, WireError>) -> Result<BlobRef, DispatchError> {
        let bytes = encoded.map_err(DispatchError::at("encode the input of a chunk"))?;
        self.link.put(bytes).await
    }

    /// Removes the other tasks of a chunk that is done, and has the worker that runs one of them give it up.
    pub(super) async fn end_backup(&self, chunk: ChunkId) {
        self.remove_tasks(chunk).await;
        self.command(WorkerCommand::Abandon(chunk)).await;
    }

    /// Returns the input of a chunk's task. It is stored as a blob when a task first needs it, and the chunk's record
    /// keeps the reference.
    pub(super) async fn input_of(
        &self,
        chunk: ChunkId,
        range: FrameRange,
        job: &mut Job,
    ) -> Result<BlobRef, DispatchError> {
        if let Some(input) = job.chunks.get(chunk).and_then(|record| record.input) {
            return Ok(input);
        }
        let (spec, timeline, track) = (&job.spec, &job.timeline, &job.gate.track);
        let segments = job.segments.entries();
        let bytes = match chunk.work {
            WorkKind::Analyze => wire::encode(&analyze_input(timeline, segments, range)),
            WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => {
                wire::encode(&render_input(spec, timeline, segments, track, range))
            }
        };
        let input = self.put(bytes).await?;
        if let Some(record) = job.chunks.get_mut(chunk) {
            record.input = Some(input);
        }
        Ok(input)
    }

    /// Removes the tasks of one chunk, whether they are running or not, and has a worker that holds one of them and has
    /// not begun it give it up. A task that cannot be removed only causes a second run of the chunk.
    pub(super) async fn remove_tasks(&self, chunk: ChunkId) {
        if let Err(error) = self.link.remove_tasks(chunk).await {
            tracing::warn!(%chunk, error = one_line(&error), "cannot remove a task that is not needed");
        }
        self.command(WorkerCommand::GiveBack(chunk)).await;
    }

    /// Sends a command to all workers. One that does not receive it does work that is not needed.
    pub(super) async fn command(&self, command: WorkerCommand) {
        if let Err(error) = self.link.command(None, command).await {
            tracing::debug!(error = one_line(&error), "a command was not sent");
        }
    }

    /// Removes the tasks of chunks that are to be published to another queue.
    pub(super) async fn reassign(&self, jobs: &mut BTreeMap<JobId, Job>, moves: Vec<Reassignment>) {
        for Reassignment { chunk, why } in moves {
            self.remove_tasks(chunk).await;
            if let Some(job) = jobs.get_mut(&chunk.job) {
                job.on_reassigned(chunk, why);
            }
        }
    }

    /// Removes records that failed verification from the done log. A removal that fails is tried again with
    /// the next tick. Nothing is removed without the `lease`: the record may count for another coordinator by now.
    pub(super) async fn retract_pending(&self, job: &mut Job, lease: &dyn LeaseView) {
        for record in job.chunks.analyze.iter_mut().chain(&mut job.chunks.render) {
            let (chunk, Some(sequence)) = (record.id, record.pending_retraction) else {
                continue;
            };
            if !lease.is_held() {
                return;
            }
            match self.link.retract(chunk, sequence).await {
                Ok(()) => record.pending_retraction = None,
                Err(error) => {
                    tracing::warn!(%chunk, error = one_line(&error), "cannot remove a rejected result from the done log, trying again");
                }
            }
        }
    }

    /// Removes a record of no chunk of the job from the done log, once, with the `lease`; one that stays is not read again.
    pub(super) async fn retract(&self, chunk: ChunkId, sequence: u64, lease: &dyn LeaseView) {
        if !lease.is_held() {
            return;
        }
        if let Err(error) = self.link.retract(chunk, sequence).await {
            tracing::warn!(%chunk, error = one_line(&error), "cannot remove a rejected result from the done log");
        }
    }

    /// Removes the tasks of an earlier coordinator from the queue, because its epoch does not count from now on, and has
    /// workers give up those that they have not begun. Chunks that a worker may still be running are not published before
    /// `adopt_at`, if that is given.
    pub(super) async fn take_over(
        &self,
        job: &mut Job,
        adopt_at: Option<Instant>,
    ) -> Result<(), DispatchError> {
        for task in self.link.tasks(job.spec.id).await? {
            if let Some(record) = job.chunks.get_mut(task.chunk) {
                record.inherited = Some(task.attempt);
                record.not_before = adopt_at;
            }
            self.command(WorkerCommand::GiveBack(task.chunk)).await;
        }
        let removed = self.link.remove_tasks_of_job(job.spec.id).await?;
        if removed > 0 {
            tracing::info!(removed, "removed tasks of an earlier coordinator");
        }
        Ok(())
    }

    /// Removes the tasks of a job that has ended.
    pub(super) async fn clear(&self, job: JobId) {
        if let Err(error) = self.link.remove_tasks_of_job(job).await {
            tracing::warn!(error = one_line(&error), "cannot clear the job's tasks");
        }
    }

    /// Reads which chunks of a job have a task in the queue, for the comparison with the chunks' states.
    pub(super) async fn view(&self, job: &Job, workers: &Workers) -> Result<QueueView, DispatchError> {
        let tasks = self.link.queued(job.spec.id).await?;
        let published = job.chunks.render.iter().filter_map(|record| record.published);
        let lanes = published
            .map(|fit| fit.lane())
            .chain([Lane::any(ResourceClass::Analyze)]);
        let mut stranded = BTreeSet::new();
        for lane in lanes.collect::<BTreeSet<Lane>>() {
            let queue = job.settings.queue(lane);
            if self.delivers_nothing(queue).await? {
                let there = tasks.iter().filter(|(at, _)| *at == queue);
                stranded.extend(there.map(|(_, chunk)| *chunk));
            }
        }
        Ok(QueueView {
            queued: tasks.into_iter().map(|(_, chunk)| chunk).collect(),
            stranded,
            held: job
                .chunks
                .ids(|record| workers.any_works_on(record.id))
                .into_iter()
                .collect(),
        })
    }

    /// Whether the queue's consumer has no task to deliver and none in delivery, whatever the stream holds
    /// for it.
    async fn delivers_nothing(&self, queue: Queue) -> Result<bool, DispatchError> {
        let load = self.link.queue_load(queue).await?;
        Ok(load.is_none_or(|load| load.waiting == 0 && load.held == 0))
    }
}

pub(super) fn render_task(spec: &JobSpec, range: FrameRange, input: BlobRef, fit: &Fit) -> TaskBody {
    TaskBody::Render(RenderTask {
        source: spec.source.clone(),
        audio: spec.audio.clone(),
        model: spec.model.clone(),
        encoder: spec.encoder.clone(),
        range,
        input,
        memory: fit.constraints,
    })
}
