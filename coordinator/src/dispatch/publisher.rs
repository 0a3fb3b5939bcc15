//! The dispatcher's side of the queue: from the backlog into the queues, out of them again, and out of the done log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, JobId, Work};
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::tasks::{Published, TaskError, TaskStream};
use latentfarm_common::nats::{Connection, subjects, topology};
use latentfarm_common::queues::{Queue, ResourceClass};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::task::{AnalyzeTask, RenderTask, Task, TaskBody};
use tokio::time::Instant;

use super::error::DispatchError;
use super::fairness::{fair, free_slots};
use super::farm::Farm;
use super::inputs::{analyze_input, render_input};
use super::job::Job;
use super::placer::TakeBack;
use super::reconcile::QueueView;
use super::workers::Workers;

/// How long the farm may refuse tasks, or the store their inputs.
const PATIENCE: Duration = Duration::from_mins(1);
const TRY_AGAIN: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(2));

/// Publishes tasks, and removes them.
pub(super) struct TaskPublisher {
    connection: Connection,
    task_stream: TaskStream,
    done_log: DoneLog,
    store: Store,
    /// Fencing token of this coordinator.
    epoch: u64,
    /// Set while the farm does not take tasks.
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    again_at: Instant,
    backoff: Backoff,
}

impl TaskPublisher {
    pub(super) fn new(farm: &Farm, epoch: u64) -> Self {
        Self {
            connection: farm.connection.clone(),
            task_stream: TaskStream::new(&farm.connection, farm.topology),
            done_log: DoneLog::new(&farm.connection),
            store: farm.store.clone(),
            epoch,
            trouble: None,
        }
    }

    pub(super) fn done_log(&self) -> &DoneLog {
        &self.done_log
    }

    /// Fills the window of each queue from the backlogs. A farm that does not take tasks is left alone for a
    /// moment; after [`PATIENCE`] that is an error.
    pub(super) async fn publish(
        &mut self,
        jobs: &mut BTreeMap<JobId, Job>,
        workers: &Workers,
    ) -> Result<(), DispatchError> {
        let now = Instant::now();
        if self
            .trouble
            .as_ref()
            .is_some_and(|trouble| now < trouble.again_at)
        {
            return Ok(());
        }
        let mut result = Ok(());
        for (queue, chunks) in choose(jobs, workers, now) {
            if result.is_ok() {
                result = self.publish_to(queue, &chunks, jobs).await;
            }
        }
        let Err(error) = result else { return Ok(()) };
        let trouble = self.trouble.get_or_insert(Trouble {
            since: now,
            again_at: now,
            backoff: TRY_AGAIN,
        });
        if !error.is_passing() || now - trouble.since > PATIENCE {
            return Err(error);
        }
        tracing::warn!(error = one_line(&error), "cannot publish tasks, trying again");
        trouble.again_at = Instant::now() + trouble.backoff.next_delay();
        Ok(())
    }

    /// On an error the chunks stay in the backlog.
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
            let published = self
                .task_stream
                .publish_all(queue, &tasks)
                .await
                .map_err(|error| {
                    // Some may have been stored: not twice.
                    for task in &tasks {
                        let job = jobs.get_mut(&task.chunk.job);
                        if let Some(record) = job.and_then(|job| job.chunks.get_mut(task.chunk)) {
                            record.maybe_queued = true;
                        }
                    }
                    DispatchError::Tasks(error)
                })?;
            let mut repeated = Vec::new();
            for (mut task, published) in tasks.into_iter().zip(published) {
                match published {
                    Published::Queued => {
                        if let Some(job) = jobs.get_mut(&task.chunk.job) {
                            job.on_enqueued(&task);
                        }
                    }
                    // Its number was used by an earlier run not long ago.
                    Published::Duplicate => {
                        task.attempt = task.attempt.next();
                        repeated.push(task);
                    }
                }
            }
            tasks = repeated;
        }
        self.trouble = None;
        Ok(())
    }

    /// The task of a chunk of the backlog, its input stored and no other task of it in the queue.
    async fn task(&self, chunk: ChunkId, job: &mut Job) -> Result<Option<Task>, DispatchError> {
        let Some(record) = job.chunks.get_mut(chunk) else {
            return Ok(None);
        };
        if std::mem::take(&mut record.maybe_queued) {
            self.remove_tasks(chunk).await;
        }
        let attempt = record.state().attempt.under(self.epoch);
        let (range, planned) = (record.range, record.planned);
        let input = match record.input {
            Some(input) => input,
            None => self.store_input(chunk, range, job).await?,
        };
        let spec = &job.spec;
        let body = match (chunk.work, planned) {
            (Work::Render, None) => return Ok(None),
            (Work::Analyze, _) => TaskBody::Analyze(AnalyzeTask {
                source: spec.source.clone(),
                range,
                input,
            }),
            (Work::Render, Some(planned)) => TaskBody::Render(RenderTask {
                source: spec.source.clone(),
                audio: spec.audio.clone(),
                model: spec.model.clone(),
                encoder: spec.encoder.clone(),
                range,
                input,
                memory: planned.fit.constraints,
            }),
        };
        Ok(Some(Task {
            chunk,
            attempt,
            store: self.store.url().to_owned(),
            body,
        }))
    }

    async fn store_input(
        &self,
        chunk: ChunkId,
        range: FrameRange,
        job: &mut Job,
    ) -> Result<BlobRef, DispatchError> {
        let (spec, timeline, track) = (&job.spec, &job.timeline, &job.gate.track);
        let bytes = match chunk.work {
            Work::Analyze => wire::encode(&analyze_input(timeline, range)),
            Work::Render => wire::encode(&render_input(spec, timeline, track, range)),
        };
        let stored = self
            .store
            .put_bytes(bytes.map_err(DispatchError::at("encode the input of a chunk"))?)
            .await;
        let input = stored.map_err(|error| DispatchError::Store(Box::new(error)))?;
        if let Some(record) = job.chunks.get_mut(chunk) {
            record.input = Some(input);
        }
        Ok(input)
    }

    /// Removes the tasks for one chunk, running or not. A task that stays only makes for a double run.
    pub(super) async fn remove_tasks(&self, chunk: ChunkId) {
        if let Err(error) = self.task_stream.remove_chunk(chunk).await {
            tracing::warn!(%chunk, error = one_line(&error), "cannot remove a task that is not needed");
        }
    }

    /// Removes the tasks of chunks that belong elsewhere.
    pub(super) async fn take_back(&self, jobs: &mut BTreeMap<JobId, Job>, moves: Vec<TakeBack>) {
        for TakeBack { chunk, why } in moves {
            self.remove_tasks(chunk).await;
            if let Some(job) = jobs.get_mut(&chunk.job) {
                job.on_taken_back(chunk, why);
            }
        }
    }

    /// Removes records that failed verification from the done log; what the farm does not remove now is tried again
    /// with the next tick.
    pub(super) async fn retract_pending(&self, job: &mut Job) {
        for record in job.chunks.analyze.iter_mut().chain(&mut job.chunks.render) {
            let (chunk, Some(sequence)) = (record.id, record.pending_retraction) else {
                continue;
            };
            match self.done_log.retract(chunk, sequence).await {
                Ok(_) => record.pending_retraction = None,
                Err(error) => {
                    tracing::warn!(%chunk, error = one_line(&error), "cannot take a result back yet");
                }
            }
        }
    }

    /// Takes the tasks of an earlier coordinator out of the queue: workers ignore its epoch from now on. Those that a
    /// worker may still be at work on are left to it until `adopt_at`, if that is given.
    pub(super) async fn take_over(
        &self,
        job: &mut Job,
        adopt_at: Option<Instant>,
    ) -> Result<(), DispatchError> {
        let filter = subjects::tasks_of_job(job.spec.id);
        let mut reader = DirectReader::new(&self.connection.client, topology::TASKS, &filter, 1);
        let failed = || DispatchError::at("read the tasks of an earlier coordinator");
        while let Some(message) = reader.next().await.map_err(failed())? {
            let Ok(task) = wire::decode::<Task>(&message.payload) else {
                continue;
            };
            if let Some(record) = job.chunks.get_mut(task.chunk) {
                record.inherited = Some(task.attempt);
                record.not_before = adopt_at;
            }
        }
        let removed = self.task_stream.remove_job(job.spec.id).await;
        let removed = removed.map_err(DispatchError::Tasks)?;
        if removed > 0 {
            tracing::info!(removed, "removed tasks of an earlier coordinator");
        }
        Ok(())
    }

    /// At a job's end: nobody needs what is left of it in the queue.
    pub(super) async fn clear(&self, job: JobId) {
        if let Err(error) = self.task_stream.remove_job(job).await {
            tracing::warn!(error = one_line(&error), "cannot clear the job's tasks");
        }
    }

    /// What the queue holds of a job.
    pub(super) async fn view(&self, job: &Job, workers: &Workers) -> Result<QueueView, TaskError> {
        let tasks = self.task_stream.queued(job.spec.id).await?;
        let classes = job.chunks.render.iter().filter_map(|record| record.published);
        let classes = classes.map(|fit| fit.class).chain([ResourceClass::Analyze]);
        let mut stranded = BTreeSet::new();
        for class in classes.collect::<BTreeSet<ResourceClass>>() {
            let queue = job.settings.queue(class);
            if self.is_dead(queue).await? {
                let there = tasks.iter().filter(|(at, _)| *at == queue);
                stranded.extend(there.map(|(_, chunk)| *chunk));
            }
        }
        Ok(QueueView {
            queued: tasks.into_iter().map(|(_, chunk)| chunk).collect(),
            stranded,
            held: job
                .chunks
                .ids(|record| workers.hold(record.id))
                .into_iter()
                .collect(),
        })
    }

    /// The queue hands out nothing and has nothing in hand, whatever the queue holds under its name.
    async fn is_dead(&self, queue: Queue) -> Result<bool, TaskError> {
        let load = topology::lane_load(&self.connection.context, queue).await?;
        Ok(load.is_none_or(|load| load.waiting == 0 && load.held == 0))
    }
}

/// The chunks that go into each queue now: as many as its window has free slots, the jobs in turn, each job's chunks in
/// frame order. The window of a queue is by the workers that serve it.
pub(super) fn choose(
    jobs: &BTreeMap<JobId, Job>,
    workers: &Workers,
    now: Instant,
) -> Vec<(Queue, Vec<ChunkId>)> {
    let mut queues: BTreeMap<Queue, Vec<Vec<ChunkId>>> = BTreeMap::new();
    let mut under_way: BTreeMap<Queue, usize> = BTreeMap::new();
    for job in jobs.values() {
        let mut ready: BTreeMap<Queue, Vec<ChunkId>> = BTreeMap::new();
        for record in job.chunks.iter() {
            if let Some(class) = record.class_to_publish(now) {
                ready
                    .entry(job.settings.queue(class))
                    .or_default()
                    .push(record.id);
            } else if let Some(class) = record.class_under_way() {
                *under_way.entry(job.settings.queue(class)).or_default() += 1;
            }
        }
        for (queue, chunks) in ready {
            queues.entry(queue).or_default().push(chunks);
        }
    }
    let machines = workers.machines();
    // Rendering goes before analysis: a video is finished front to back.
    let chosen = queues.into_iter().rev().map(|(queue, backlogs)| {
        let serving = match queue.class {
            ResourceClass::Analyze => workers.live(),
            class => machines.iter().filter(|machine| machine.serves(class)).count(),
        };
        let slots = free_slots(serving, under_way.get(&queue).copied().unwrap_or(0));
        (queue, fair(slots, &backlogs))
    });
    chosen.filter(|(_, chunks)| !chunks.is_empty()).collect()
}
