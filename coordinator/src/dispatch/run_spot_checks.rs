//! How the dispatcher runs spot checks; see [`SpotChecks`](super::spot_checks).

use std::sync::Arc;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, WorkKind, WorkerId};
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::memory::MemoryPlan;
use latentfarm_common::wire::outcome::{DoneRecord, Event, EventKind};
use tokio::time::Instant;

use super::dispatcher::Dispatcher;
use super::job::Job;
use super::need_estimator::NeedEstimator;
use super::spot_checks::{Conclusion, LoggedResult, Overdue, Step, tasks_of};
use super::wait_reason::WaitReason;
use super::workers::Workers;
use crate::job::record::ChunkRecord;
use crate::job::retry::Cause;
use crate::placement::{Fit, WorkerCapacity};

impl Dispatcher<'_> {
    /// Begins the check of a result that was verified, if its chunk is one of the sample, or its worker has given a wrong
    /// result before, and another worker can render it again. Returns whether the result waits for that.
    pub(super) async fn begin_spot_check(&mut self, record: &Arc<DoneRecord>, sequence: u64) -> bool {
        let (chunk, now) = (record.chunk, Instant::now());
        let Some(job) = self.jobs.get_mut(&chunk.job) else {
            return false;
        };
        let is_chosen = chunk.work == WorkKind::Render
            && (self.sampler.takes(chunk) || self.workers.gives_wrong_results(&record.worker))
            && !job.spot_checks.knows(chunk.index)
            && !job.is_paused
            && self.draining_since.is_none();
        let Some(range) = job
            .chunks
            .get(chunk)
            .map(|known| known.range)
            .filter(|_| is_chosen)
        else {
            return false;
        };
        let capacities = self.workers.healthy_capacities(&job.settings.needed_tags);
        let Some(fit) = fit_without(
            job,
            record,
            std::slice::from_ref(&record.worker),
            &capacities,
            &self.estimator,
        ) else {
            job.spot_checks.pass_over(chunk.index);
            return false;
        };
        let held = LoggedResult {
            record: Arc::clone(record),
            sequence,
        };
        job.spot_checks.begin(held, range, fit, now);
        if let Some(known) = job.chunks.get_mut(chunk) {
            known.being_verified = true;
        }
        tracing::info!(%chunk, %range, worker = %record.worker, "another worker renders a chunk again as a spot check");
        self.request_rendering(chunk).await;
        true
    }

    /// Takes the result of rendering a chunk again.
    pub(super) async fn on_spot_check_record(
        &mut self,
        task: ChunkId,
        sequence: u64,
        record: Result<Arc<DoneRecord>, WireError>,
    ) {
        let Some(job) = self.jobs.get_mut(&task.job) else {
            return;
        };
        let chunk = checked_chunk(task);
        let step = match record {
            Ok(record) => job
                .spot_checks
                .on_arrived(task.index, LoggedResult { record, sequence }),
            Err(error) => job
                .spot_checks
                .give_up(chunk.index, &one_line(&error))
                .map_or(Step::Ignored, Step::Settled),
        };
        match step {
            Step::Ignored => {}
            Step::NotIndependent => {
                tracing::warn!(%task, "a worker rendered again what it had rendered itself");
                self.publisher.retract(task, sequence, self.lease).await;
                self.request_rendering(chunk).await;
            }
            Step::Differs => self.request_decision(chunk).await,
            Step::Settled(conclusion) => self.conclude(conclusion).await,
        }
    }

    /// Takes the report of a worker about rendering a chunk again. A failure is not tried again, unless it is that of a worker
    /// that has rendered the chunk, which so could keep its own result from being checked; a task that was given back too
    /// often is published anew.
    pub(super) async fn on_spot_check_event(&mut self, event: &Event) {
        let chunk = checked_chunk(event.chunk);
        match &event.kind {
            EventKind::Started => {}
            EventKind::Released => self.request_rendering(chunk).await,
            EventKind::Failed(failure) => {
                let job = self.jobs.get(&chunk.job);
                let renderers = job.map(|job| job.spot_checks.renderers(chunk.index));
                if !renderers.is_some_and(|renderers| renderers.contains(&event.worker)) {
                    let reason = Cause::of(failure).reason;
                    self.give_up_spot_check(chunk, &reason).await;
                }
            }
        }
    }

    /// Looks after the checks whose next rendering nobody has begun.
    pub(super) async fn tend_spot_checks(&mut self, now: Instant) {
        let open = self.jobs.values().flat_map(|job| {
            let open = job.spot_checks.open().into_iter();
            open.map(|index| ChunkId {
                job: job.spec.id,
                work: WorkKind::Render,
                index,
            })
        });
        for chunk in open.collect::<Vec<_>>() {
            if self.draining_since.is_some() {
                self.give_up_spot_check(chunk, "the coordinator ends").await;
                continue;
            }
            if is_begun(chunk, &self.workers) {
                continue;
            }
            let overdue = self.jobs.get(&chunk.job).and_then(|job| {
                let capacities = self.workers.healthy_capacities(&job.settings.needed_tags);
                job.spot_checks.overdue(chunk.index, &capacities, now)
            });
            match overdue {
                None => {}
                Some(Overdue::GiveUp(reason)) => self.give_up_spot_check(chunk, &reason).await,
                Some(Overdue::Publish) => {
                    self.remove_repeats(chunk).await;
                    self.request_rendering(chunk).await;
                }
            }
        }
    }

    /// Has another worker decide which of two results is wrong, if there is one.
    async fn request_decision(&mut self, chunk: ChunkId) {
        let now = Instant::now();
        let Some(job) = self.jobs.get_mut(&chunk.job) else {
            return;
        };
        let capacities = self.workers.healthy_capacities(&job.settings.needed_tags);
        let renderers = job.spot_checks.renderers(chunk.index);
        tracing::warn!(%chunk, ?renderers, "two workers of one kind came to different frames");
        let fit = job
            .spot_checks
            .held(chunk.index)
            .and_then(|held| fit_without(job, &held.record, &renderers, &capacities, &self.estimator));
        if let Some(fit) = fit {
            job.spot_checks.ask_another(chunk.index, fit, now);
            self.request_rendering(chunk).await;
        } else {
            let reason = "no other worker of their kind is there";
            self.give_up_spot_check(chunk, reason).await;
        }
    }

    /// Publishes the task for the next rendering of a chunk, or takes the result that an earlier coordinator left.
    async fn request_rendering(&mut self, chunk: ChunkId) {
        let Some(job) = self.jobs.get_mut(&chunk.job) else {
            return;
        };
        let Some(repeat) = job.spot_checks.next(chunk.index) else {
            return;
        };
        if let Some(LoggedResult { record, sequence }) = job.spot_checks.take_early(repeat.task) {
            Box::pin(self.on_spot_check_record(repeat.task, sequence, Ok(record))).await;
            return;
        }
        job.spot_checks.on_published(chunk.index, Instant::now());
        if let Err(error) = self.publisher.publish_repeat(job, &repeat).await {
            let reason = one_line(&error);
            self.give_up_spot_check(chunk, &reason).await;
        }
    }

    async fn give_up_spot_check(&mut self, chunk: ChunkId, reason: &str) {
        let job = self.jobs.get_mut(&chunk.job);
        if let Some(conclusion) = job.and_then(|job| job.spot_checks.give_up(chunk.index, reason)) {
            self.remove_repeats(chunk).await;
            self.conclude(conclusion).await;
        }
    }

    async fn remove_repeats(&self, chunk: ChunkId) {
        for task in tasks_of(chunk) {
            self.publisher.remove_tasks(task).await;
        }
    }

    /// Ends a check: sets the odd worker aside, if there is one, and counts the result that was held if it is not that
    /// worker's.
    async fn conclude(&mut self, conclusion: Conclusion) {
        let Conclusion {
            held: LoggedResult { record, sequence },
            odd,
        } = conclusion;
        let chunk = record.chunk;
        if let Some(known) = self
            .jobs
            .get_mut(&chunk.job)
            .and_then(|job| job.chunks.get_mut(chunk))
        {
            known.being_verified = false;
        }
        let mut result = Ok(Vec::new());
        if let Some(odd) = odd {
            self.workers
                .record_wrong_result(&odd.worker, &odd.reason, Instant::now());
            if odd.worker == record.worker {
                result = Err(odd.reason);
            }
        }
        self.settle_result(record, sequence, result).await;
    }
}

impl Job {
    /// The wait for spot checks, if nothing else of the job is under way and no worker has begun one of them.
    pub(super) fn wait_for_spot_checks(&self, workers: &Workers) -> Option<WaitReason> {
        let open = self.spot_checks.open();
        let is_other = |record: &&ChunkRecord| {
            let is_checked = record.id.work == WorkKind::Render && open.contains(&record.id.index);
            !record.state().is_settled() && !is_checked
        };
        let is_begun = |index: &u32| {
            let chunk = self.chunks.render.get(*index as usize);
            chunk.is_some_and(|record| is_begun(record.id, workers))
        };
        let waits =
            !open.is_empty() && self.chunks.iter().find(is_other).is_none() && !open.iter().any(is_begun);
        waits.then_some(WaitReason::SpotCheck { chunks: open.len() })
    }
}

/// Whether a worker renders a chunk again now.
fn is_begun(chunk: ChunkId, workers: &Workers) -> bool {
    let mut tasks = tasks_of(chunk).into_iter();
    tasks.any(|task| workers.any_works_on(task))
}

/// The render chunk that a task renders again.
fn checked_chunk(task: ChunkId) -> ChunkId {
    ChunkId {
        work: WorkKind::Render,
        index: task.index / 2,
        ..task
    }
}

/// How workers other than `renderers` that round as the one of `record` did can render its chunk again; `None` if none can.
fn fit_without(
    job: &Job,
    record: &DoneRecord,
    renderers: &[WorkerId],
    capacities: &[WorkerCapacity],
    estimator: &NeedEstimator,
) -> Option<Fit> {
    let plan = record.memory.as_ref().map(|used| used.plan).unwrap_or_default();
    let alike = MemoryPlan::equal_on_cuda()
        .into_iter()
        .find(|(first, last)| (*first..=*last).contains(&plan))?;
    let others = capacities
        .iter()
        .filter(|worker| !renderers.contains(&worker.worker));
    let others: Vec<WorkerCapacity> = others.cloned().collect();
    job.fit_of_kind(record.kind?, alike, &others, estimator)
}
