//! One event of one chunk, and what follows from it.

use std::time::Duration;

use latentfarm_common::ids::{ChunkId, Work};
use tokio::time::Instant;

use super::dispatcher::Dispatcher;
use super::notice::{JobEvent, Progress};
use super::placing::short;
use super::report::RetryClass;
use crate::job::attempt::{Tries, describe};
use crate::job::chunk::{ChunkEvent, ChunkState, Step};
use crate::journal::Entry;

impl Dispatcher<'_> {
    /// Applies an event to one chunk and does what follows from it. `class` is why an attempt ended.
    pub(super) fn apply(&mut self, chunk: ChunkId, event: ChunkEvent, class: Option<RetryClass>) {
        let Some(range) = self.state.of(chunk.work).range(chunk.index) else {
            tracing::warn!(%chunk, "the job has no such chunk");
            return;
        };
        let reason = reason_of(&event);
        let is_reported = matches!(event, ChunkEvent::Failed { .. });
        let attempt = self
            .state
            .of(chunk.work)
            .get(chunk.index)
            .map(ChunkState::attempt);
        let next = match self.state.apply(chunk.work, chunk.index, event) {
            Step::Moved(next) => next,
            Step::Ignored => return,
            Step::Denied(denied) => {
                tracing::warn!(%chunk, %denied, "a report does not fit what is known");
                return;
            }
        };
        self.dropped.remove(&chunk);
        if let Some(class) = class
            && !matches!(next, ChunkState::Waiting { .. })
        {
            *self.retries.entry(class).or_default() += 1;
            if !is_reported {
                let then = (class == RetryClass::WorkerLost)
                    .then(|| self.note_loss(chunk))
                    .flatten();
                self.journal.note(Entry::Ended {
                    chunk: short(chunk),
                    attempt: attempt.map_or(0, |attempt| attempt.number),
                    reason: reason.clone().unwrap_or_else(|| class.label().to_owned()),
                    then,
                });
            }
        }
        match next {
            ChunkState::Running { worker, attempt, .. } => self.notify(JobEvent::ChunkStarted {
                chunk,
                range,
                worker,
                attempt,
            }),
            ChunkState::Done { record, .. } => self.notify(JobEvent::ChunkDone {
                chunk,
                range,
                worker: record.worker.clone(),
                timings: record.timings,
            }),
            ChunkState::Quarantined { reason, .. } => {
                if chunk.work == Work::Analyze {
                    self.track.lose(range);
                }
                self.stale.insert(chunk);
                self.journal.note(Entry::GivenUp {
                    chunk: short(chunk),
                    reason: reason.clone(),
                });
                self.notify(JobEvent::ChunkQuarantined { chunk, range, reason });
            }
            ChunkState::Backlog { tries, .. } => {
                if let Some(class) = class {
                    let delay = self.delay(class, tries);
                    self.not_before.insert(chunk, Instant::now() + delay);
                    self.stale.insert(chunk);
                    self.notify(JobEvent::ChunkRequeued {
                        chunk,
                        range,
                        reason: reason.unwrap_or_else(|| class.label().to_owned()),
                        delay,
                    });
                }
            }
            ChunkState::Waiting { .. } | ChunkState::Queued { .. } => {}
        }
    }

    /// A lost attempt is repeated at once, a failed one after a growing delay.
    fn delay(&self, class: RetryClass, tries: Tries) -> Duration {
        let pace = self.settings.pace;
        match class {
            RetryClass::WorkerLost | RetryClass::QueueLost => Duration::ZERO,
            // The next attempt is another one: under a leaner plan, or elsewhere.
            RetryClass::OutOfMemory => pace.retry_after,
            RetryClass::NoRoom
            | RetryClass::WorkerUnfit
            | RetryClass::Transient
            | RetryClass::EngineLost
            | RetryClass::BadInput
            | RetryClass::BadResult => {
                let doublings = tries.total().saturating_sub(1).min(16);
                (pace.retry_after * (1 << doublings)).min(pace.retry_after_at_most)
            }
        }
    }

    pub(super) fn notify(&self, event: JobEvent) {
        match &event {
            JobEvent::Progress(_) | JobEvent::Heartbeat(_) => {}
            JobEvent::WorkerLost { .. }
            | JobEvent::ChunkUnplaced { .. }
            | JobEvent::ChunkRequeued { .. }
            | JobEvent::ChunkQuarantined { .. } => {
                tracing::warn!("{event}");
            }
            JobEvent::Resumed { .. }
            | JobEvent::WorkerJoined { .. }
            | JobEvent::WorkerLeft { .. }
            | JobEvent::ChunkStarted { .. }
            | JobEvent::ChunkDone { .. } => tracing::info!("{event}"),
        }
        // Nobody has to watch.
        let _ = self.observer.send(event);
    }

    pub(super) fn tell_progress(&self) {
        let render = &self.state.render;
        let waiting = self.waiting_for_memory();
        let is_done = |chunk: ChunkId| render.get(chunk.index).is_some_and(ChunkState::is_settled);
        self.notify(JobEvent::Progress(Progress {
            analyze: self.state.analyze.counts(),
            render: self.state.render.counts(),
            frames_under_way: self.workers.frames_under_way(self.spec.id, is_done),
            workers: self.workers.live(),
            waiting_for_memory: waiting.as_ref().map_or(0, |(chunks, _)| *chunks),
            shortage: waiting.map(|(_, shortage)| shortage),
        }));
    }
}

fn reason_of(event: &ChunkEvent) -> Option<String> {
    match event {
        ChunkEvent::Failed { failure, .. } => Some(describe(failure)),
        ChunkEvent::Retracted { reason, .. } => Some(format!("its result failed verification: {reason}")),
        ChunkEvent::WorkerLost { worker } => Some(format!("worker {worker} no longer works on it")),
        ChunkEvent::QueueLost { .. } => Some("its task vanished from the queue".to_owned()),
        ChunkEvent::Released
        | ChunkEvent::Blocked { .. }
        | ChunkEvent::Enqueued { .. }
        | ChunkEvent::Started { .. }
        | ChunkEvent::DoneSeen { .. }
        | ChunkEvent::TakenBack { .. }
        | ChunkEvent::GivenBack { .. } => None,
    }
}
