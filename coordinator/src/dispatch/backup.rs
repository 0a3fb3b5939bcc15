//! Backup tasks: when a worker is idle and a slow one still has long to go with a chunk, the idle one renders that chunk
//! too. The first result counts, and whoever has not finished gives up. So the end of a job does not wait for its slowest
//! machine, or for one that hangs.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::{ChunkId, JobId, WorkerId};
use latentfarm_common::wire::outcome::TaskProgress;

use super::job::Job;
use super::need_estimator::NeedEstimator;
use super::workers::Workers;
use crate::job::chunk::state::Phase;
use crate::job::record::ChunkRecord;
use crate::placement::{CpuFallback, Fit, WorkerCapacity, options};

/// A backup must be expected to be done in less than this share of the time that the first worker still needs.
const WORTH_IT: f64 = 0.6;
/// A chunk that is expected to be done this soon gets no backup.
const SOON: Duration = Duration::from_secs(5);

/// A second task of a chunk that is running.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Backup {
    pub(super) chunk: ChunkId,
    pub(super) fit: Fit,
    /// The idle worker for which it is meant; another one that serves the queue may take it.
    pub(super) worker: WorkerId,
}

/// Chooses the backup that is worth most: at most one, and only for workers to which nothing else can be given.
pub(super) fn choose(
    jobs: &BTreeMap<JobId, Job>,
    workers: &Workers,
    idle: &[WorkerCapacity],
    estimator: &NeedEstimator,
) -> Option<Backup> {
    let mut best: Option<(f64, Backup)> = None;
    for job in jobs.values().filter(|job| !job.is_paused) {
        // What is still to come needs the idle workers more.
        let has_more = job.chunks.render.iter().any(|record| {
            matches!(
                record.state().phase,
                Phase::Waiting | Phase::Backlog | Phase::Queued
            )
        });
        if has_more {
            continue;
        }
        let running: Vec<(&ChunkRecord, f64)> = job
            .chunks
            .render
            .iter()
            .filter_map(|record| Some((record, seconds_left(job, record, workers, estimator)?)))
            .collect();
        if running.is_empty() {
            continue;
        }
        let observations = |kind| estimator.observations(&job.spec.model, kind);
        let needs = job.settings.needs.corrected(observations);
        let needed = &job.settings.needed_tags;
        for worker in idle.iter().filter(|worker| worker.tags.cover(needed)) {
            let own = std::slice::from_ref(worker);
            for (record, left) in &running {
                // A chunk that is kept to a numeric kind has its backup on a machine of that kind.
                let kind = record.published.and_then(|fit| fit.kind);
                if kind.is_some() && worker.kind != kind {
                    continue;
                }
                let choices = options(&needs, &record.memory, own);
                let choices = match kind {
                    Some(kind) => choices.of_kind(kind),
                    None => choices,
                };
                let cpu = choices
                    .cpu
                    .filter(|_| job.settings.cpu_fallback != CpuFallback::Never);
                let Some(fit) = choices.gpu.or(cpu) else { continue };
                let Some(pace) = frame_seconds(job, &worker.worker, &fit, estimator) else {
                    continue;
                };
                let saved = left - pace * record.range.len() as f64 / WORTH_IT;
                if saved > 0.0 && best.as_ref().is_none_or(|(most, _)| saved > *most) {
                    let backup = Backup {
                        chunk: record.id,
                        fit,
                        worker: worker.worker.clone(),
                    };
                    best = Some((saved, backup));
                }
            }
        }
    }
    best.map(|(_, backup)| backup)
}

/// The time that the worker of a running chunk still needs for it, in seconds; `None` if the chunk needs no backup, or
/// that is not known.
fn seconds_left(
    job: &Job,
    record: &ChunkRecord,
    workers: &Workers,
    estimator: &NeedEstimator,
) -> Option<f64> {
    let Phase::Running { worker } = &record.state().phase else {
        return None;
    };
    if record.backup.is_some() || record.being_verified {
        return None;
    }
    let progress: &TaskProgress = workers.task_of(worker, record.id)?;
    let pace = frame_seconds(job, worker, &record.published?, estimator)?;
    let left = progress.frames_total.saturating_sub(progress.frames_done);
    let seconds = f64::from(left) * pace;
    (seconds > SOON.as_secs_f64()).then_some(seconds)
}

/// The time that a worker needs for a frame of a job, in seconds: by the chunks of the job that it has done, or else by
/// what its kind of device took for such frames.
fn frame_seconds(job: &Job, worker: &WorkerId, fit: &Fit, estimator: &NeedEstimator) -> Option<f64> {
    let (mut frames, mut milliseconds) = (0, 0);
    for record in &job.chunks.render {
        if let Some(done) = record.state().record().filter(|done| done.worker == *worker) {
            frames += record.range.len();
            milliseconds += done.timings.engine_ms + done.timings.media_wait_ms;
        }
    }
    if frames > 0 {
        return Some(milliseconds as f64 / 1000.0 / frames as f64);
    }
    let kind = fit.constraints.kind;
    estimator
        .frame_ms(&job.spec.model, kind)
        .map(|frame_ms| frame_ms / 1000.0)
}
