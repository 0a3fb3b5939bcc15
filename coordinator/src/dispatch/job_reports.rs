//! What follows for a job from the reports of workers: events, heartbeats, and their silence.

use latentfarm_common::ids::{Attempt, ChunkId, WorkerId};
use latentfarm_common::wire::memory::OutOfMemory;
use latentfarm_common::wire::outcome::{Failure, Heartbeat};
use tokio::time::Instant;

use super::job::Job;
use crate::job::chunk::event::ChunkEvent;
use crate::journal::JournalEntry;

impl Job {
    /// Handles the report of a worker that it began a chunk.
    pub(super) fn on_started(&mut self, chunk: ChunkId, attempt: Attempt, worker: WorkerId) {
        self.log.append(JournalEntry::Started {
            chunk: chunk.name(),
            attempt,
            worker: worker.clone(),
        });
        self.apply(chunk, ChunkEvent::Started { attempt, worker });
    }

    /// Handles the report of a worker that an attempt failed. Returns the shortage if the attempt counted and
    /// ran out of memory, because that is an observation of the job's need.
    pub(super) fn on_failed(
        &mut self,
        chunk: ChunkId,
        attempt: Attempt,
        worker: &WorkerId,
        failure: Failure,
    ) -> Option<OutOfMemory> {
        tracing::debug!(%chunk, %worker, ?failure, "an attempt failed");
        let record = self.chunks.get_mut(chunk)?;
        let is_current = record.state().is_current(attempt);
        let published = record.published.filter(|_| is_current);
        let (predicted, now) = (&self.settings.needs, Instant::now());
        let (oom, consequence) = record.record_failure(predicted, attempt, worker, &failure, now);
        let entry = JournalEntry::Failed {
            chunk: chunk.name(),
            attempt,
            worker: worker.clone(),
            failure: failure.clone(),
            queue: published.map(|fit| self.settings.queue(fit.lane())),
            consequence,
        };
        self.log.record_failure(entry, is_current);
        let worker = worker.clone();
        let failed = ChunkEvent::Failed {
            attempt,
            worker,
            failure,
        };
        self.apply(chunk, failed);
        oom
    }

    /// Handles a heartbeat. A worker that still runs a task of an earlier coordinator keeps it. A worker that
    /// was restarted under its name no longer runs its chunk, which is then given to another worker long
    /// before the queue would deliver it again: these chunks are returned.
    pub(super) fn on_heartbeat(&mut self, heartbeat: &Heartbeat, now: Instant) -> Vec<ChunkId> {
        let worker = &heartbeat.worker;
        for task in heartbeat.tasks() {
            let Some(record) = self.chunks.get_mut(task.chunk) else {
                continue;
            };
            let adopted = record.inherited.take_if(|attempt| *attempt == task.attempt);
            if let Some(attempt) = adopted {
                record.not_before = None;
                let worker = worker.clone();
                self.apply(task.chunk, ChunkEvent::Started { attempt, worker });
            }
            if let Some(record) = self.chunks.get_mut(task.chunk) {
                record.on_progress(worker, task);
            }
        }
        let mut lost = Vec::new();
        for chunk in self.running_on(worker) {
            let Some(record) = self.chunks.get_mut(chunk) else {
                continue;
            };
            if heartbeat.tasks().any(|task| task.chunk == chunk) {
                record.unreported_since = None;
            } else if now - *record.unreported_since.get_or_insert(now) > self.timeouts.worker_timeout / 2 {
                let worker = worker.clone();
                self.apply(chunk, ChunkEvent::WorkerLost { worker });
                lost.push(chunk);
            }
        }
        lost
    }

    /// Handles the loss of a worker, with which the attempts that it was running end: their chunks are returned.
    pub(super) fn on_worker_departed(&mut self, worker: &WorkerId) -> Vec<ChunkId> {
        let lost = self.running_on(worker);
        for chunk in &lost {
            let worker = worker.clone();
            self.apply(*chunk, ChunkEvent::WorkerLost { worker });
        }
        lost
    }

    fn running_on(&self, worker: &WorkerId) -> Vec<ChunkId> {
        self.chunks
            .ids(|record| record.state().is_running_on(worker) && !record.being_verified)
    }
}
