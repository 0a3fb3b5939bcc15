//! The waits of one job: which of them are reported when, and how long they may last. The dispatcher's
//! [`Job`](super::job::Job) owns them and observes them on each tick.

use std::time::Duration;

use latentfarm_common::ids::ChunkId;
use latentfarm_common::tags::Tags;
use latentfarm_common::waiting::{WaitReport, WaitReporter, rough_time};
use tokio::time::Instant;

use super::job_event::JobEvent;
use super::settings::JobSettings;
use super::wait_reason::WaitReason;
use super::workers::Workers;
use crate::job::record::ChunkRecord;

/// The waits of one job.
#[derive(Debug, Default)]
pub(super) struct JobWaits {
    reporter: WaitReporter<&'static str>,
    /// Since when no worker of the farm could go on with the job.
    stalled_since: Option<Instant>,
    /// Whether the job waits for memory now.
    pub(super) wants_memory: bool,
    /// Why no worker could for too long, if that is so.
    starved: Option<String>,
}

impl JobWaits {
    /// Records what the job waits for now, and returns the event that is due, if one is.
    pub(super) fn observe(
        &mut self,
        reason: Option<WaitReason>,
        render: &[ChunkRecord],
        settings: &JobSettings,
        now: Instant,
    ) -> Option<JobEvent> {
        let wants_memory =
            |reason: &WaitReason| matches!(reason, WaitReason::Memory { .. } | WaitReason::AnalysisMemory);
        self.wants_memory = reason.as_ref().is_some_and(wants_memory);
        if reason.as_ref().is_some_and(WaitReason::is_stall) {
            self.stalled_since.get_or_insert(now);
        } else {
            self.stalled_since = None;
        }
        if let Some(reason) = &reason
            && self
                .stalled_since
                .is_some_and(|since| now - since >= settings.unplaceable_wait)
        {
            self.starved = Some(starved(reason, settings));
        }
        let report = self
            .reporter
            .observe(reason.as_ref().map(WaitReason::kind), now)?;
        match (report, reason) {
            (WaitReport::Over { kind, waited }, _) => Some(JobEvent::WaitOver {
                kind: kind.to_owned(),
                waited,
            }),
            (WaitReport::GoesOn(waited), reason) => Some(JobEvent::Waiting {
                mend: reason.as_ref()?.mend(&settings.start_worker),
                reason: reason?,
                waited,
                left: self.time_left(render, settings.unplaceable_wait, now),
            }),
        }
    }

    /// Returns why the job ends, if no worker of the farm could go on with it for too long.
    pub(super) fn starved(&self) -> Option<&str> {
        self.starved.as_deref()
    }

    /// How much longer the job waits: until it is given up as no worker can go on with it, or until the first
    /// of its chunks is.
    fn time_left(&self, render: &[ChunkRecord], at_most: Duration, now: Instant) -> Option<Duration> {
        let unplaced = render.iter().filter_map(ChunkRecord::memory_wait);
        let waited = unplaced.map(|wait| now - wait.since()).max();
        let waited = self.stalled_since.map(|since| now - since).or(waited)?;
        Some(at_most.saturating_sub(waited))
    }
}

/// Returns the chunks that have waited for memory for `at_most`, with the reason to give them up. The time in
/// which a worker that could take a chunk, as it has the `needed` tags, is at work on another task or rests does not
/// count, nor does an outage.
pub(super) fn overdue(
    render: &mut [ChunkRecord],
    (workers, needed): (&Workers, &Tags),
    is_up: bool,
    at_most: Duration,
    now: Instant,
) -> Vec<(ChunkId, String)> {
    let mut overdue = Vec::new();
    for record in render {
        let Some(wait) = record.memory_wait() else {
            continue;
        };
        // A worker that may be large enough for the chunk may hold another task, or rest.
        let mut queues = wait.queues().into_iter();
        let comes = queues.any(|queue| {
            workers.any_busy_with(queue, record.id, needed) || workers.any_resting_with(queue, needed)
        });
        if !is_up || comes {
            record.restart_memory_wait(now);
        } else if now - wait.since() >= at_most {
            let (text, waited) = (wait.describe(), rough_time(at_most));
            let reason = format!(
                "{text} (waited {waited} for a worker with more free memory: free that memory, add such a worker, or \
                 wait longer with --unplaceable-wait)"
            );
            overdue.push((record.id, reason));
        }
    }
    overdue
}

/// Returns why a job ends that no worker of the farm could go on with for too long.
fn starved(reason: &WaitReason, settings: &JobSettings) -> String {
    let waited = rough_time(settings.unplaceable_wait);
    let mend = reason.mend(&settings.start_worker);
    format!("{reason}, and {waited} have passed (--unplaceable-wait): {mend}")
}

#[cfg(test)]
mod tests;
