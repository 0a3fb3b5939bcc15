//! How the dispatcher has borders between numeric kinds measured; see [`BorderSamples`](super::border_samples).

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, WorkKind};
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::memory::MemoryPlan;
use latentfarm_common::wire::outcome::{DoneRecord, EventKind};
use tokio::time::Instant;

use super::border::{self, Side};
use super::dispatcher::Dispatcher;
use super::job::Job;
use super::need_estimator::NeedEstimator;
use super::verify::Comparison;
use crate::job::retry::Cause;
use crate::placement::{Fit, WorkerCapacity};

impl Dispatcher<'_> {
    /// Chooses the borders to be measured in the jobs whose chunks are all done, and publishes the tasks for that.
    pub(super) async fn measure_borders(&mut self) {
        let is_done = |job: &Job| !job.border_samples.is_chosen() && job.chunks.ending().is_some();
        let done = self
            .jobs
            .iter()
            .filter(|(_, job)| is_done(job))
            .map(|(id, _)| *id);
        for id in done.collect::<Vec<_>>() {
            let Some(job) = self.jobs.get_mut(&id) else {
                continue;
            };
            let capacities = self.workers.capacities(&job.settings.needed_tags);
            let borders = border::borders(&job.chunks.render, job.mouths());
            let mut samples = std::mem::take(&mut job.border_samples);
            let estimator = &self.estimator;
            let fit_for = |of: &Side, chunk: &Side| fit_for(job, estimator, &capacities, of, chunk);
            let tasks = samples.choose(&borders, fit_for, Instant::now());
            job.border_samples = samples;
            if !tasks.is_empty() {
                tracing::info!(job = %id, frames = tasks.len(), "rendering frames again where results of machines meet that round differently");
            }
            for task in tasks {
                let chunk = ChunkId {
                    job: id,
                    work: WorkKind::Border,
                    index: task.index,
                };
                let Some(job) = self.jobs.get_mut(&id) else {
                    continue;
                };
                if let Some(record) = job.border_samples.take_early(task.index) {
                    self.on_border_record(chunk, Ok(record));
                } else if let Err(error) = self.publisher.publish_sample(job, chunk, &task).await {
                    job.border_samples.fail(task.index, one_line(&error));
                }
            }
        }
    }

    /// Handles the result of rendering frames again.
    pub(super) fn on_border_record(&mut self, chunk: ChunkId, record: Result<DoneRecord, WireError>) {
        let Some(job) = self.jobs.get_mut(&chunk.job) else {
            return;
        };
        if let Some((original, again)) = job.border_samples.on_record(chunk.index, record) {
            self.verifier.compare(chunk, original, again);
        }
    }

    /// Handles the report of a worker about rendering frames again. No failure is tried again.
    pub(super) fn on_border_event(&mut self, chunk: ChunkId, kind: &EventKind) {
        let job = self.jobs.get_mut(&chunk.job);
        if let (Some(job), EventKind::Failed(failure)) = (job, kind) {
            let reason = format!("rendering a frame again failed: {}", Cause::of(failure).reason);
            job.border_samples.fail(chunk.index, reason);
        }
    }

    pub(super) fn on_comparison(&mut self, comparison: Comparison) {
        let Comparison { chunk, result } = comparison;
        if let Some(job) = self.jobs.get_mut(&chunk.job) {
            job.border_samples.on_compared(chunk.index, result);
        }
    }

    /// Gives up the measurements that cannot be made.
    pub(super) fn check_border_samples(&mut self, now: Instant) {
        let is_open = |job: &&mut Job| !job.border_samples.is_settled();
        for job in self.jobs.values_mut().filter(is_open) {
            let id = job.spec.id;
            let is_begun = |index| {
                self.workers.any_works_on(ChunkId {
                    job: id,
                    work: WorkKind::Border,
                    index,
                })
            };
            let capacities = self.workers.capacities(&job.settings.needed_tags);
            job.border_samples.check(&capacities, is_begun, now);
        }
    }
}

/// How the live machines of the kind that rendered `of` can render the first frames of `chunk`; `None` if they cannot,
/// or if the mouth of the first frame is not rendered.
fn fit_for(
    job: &Job,
    estimator: &NeedEstimator,
    capacities: &[WorkerCapacity],
    of: &Side,
    chunk: &Side,
) -> Option<Fit> {
    // Results of one kind that differ do so by their memory plans, which a worker chooses by what is free.
    let kind = of.record.kind.filter(|kind| chunk.record.kind != Some(*kind))?;
    if !job.mouths().is_rendered(chunk.first_frame) {
        return None;
    }
    let any_plan = (MemoryPlan::default(), MemoryPlan::LEANEST);
    job.fit_of_kind(kind, any_plan, capacities, estimator)
}
