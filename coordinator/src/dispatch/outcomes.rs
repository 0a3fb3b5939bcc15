//! What workers report, turned into the chunks' events.

use async_nats::connection::State;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, Work, WorkerId};
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::outcome::{DoneRecord, Event, EventKind, Heartbeat};
use tokio::time::Instant;

use super::dispatcher::Dispatcher;
use super::notice::JobEvent;
use super::placing::short;
use super::report::RetryClass;
use super::verify::Verdict;
use crate::job::attempt::Attempt;
use crate::job::chunk::{ChunkEvent, ChunkState};
use crate::journal::Entry;

impl Dispatcher<'_> {
    /// A record in the done log: it counts once it is verified.
    pub(super) async fn on_done(
        &mut self,
        chunk: ChunkId,
        sequence: u64,
        record: Result<DoneRecord, WireError>,
    ) {
        let Some((state, range)) = self.look_up(chunk) else {
            tracing::warn!(%chunk, "a done record is about a chunk that the job does not have");
            return;
        };
        if matches!(state, ChunkState::Done { .. }) {
            return;
        }
        let current = state.attempt();
        let record = match record {
            Ok(record) if record.chunk == chunk => record,
            Ok(record) => {
                let reason = format!("it names {}", record.chunk);
                return self.retract(chunk, sequence, current, reason).await;
            }
            Err(error) => return self.retract(chunk, sequence, current, one_line(&error)).await,
        };
        let attempt = Attempt::of(&record);
        if self.retracted.get(&chunk).is_some_and(|last| attempt <= *last) {
            let reason = "it is older than a result that was taken back".to_owned();
            return self.retract(chunk, sequence, attempt, reason).await;
        }
        self.verifier.start(record, sequence, range);
    }

    pub(super) async fn on_verdict(&mut self, verdict: Verdict) {
        let Verdict {
            record,
            sequence,
            result,
        } = verdict;
        let (chunk, attempt) = (record.chunk, Attempt::of(&record));
        self.verifier.settle(chunk);
        let observations = match result {
            Ok(observations) => observations,
            Err(reason) => return self.retract(chunk, sequence, attempt, reason).await,
        };
        let Some((state, range)) = self.look_up(chunk) else {
            return;
        };
        let is_queued = matches!(state, ChunkState::Queued { .. });
        if chunk.work == Work::Analyze
            && let Err(error) = self.track.add(range, observations)
        {
            return self.retract(chunk, sequence, attempt, one_line(&error)).await;
        }
        if record.epoch == self.lease.epoch() {
            self.note_done(&record, range.len());
        }
        self.apply(chunk, ChunkEvent::DoneSeen { record }, None);
        self.stored.remove(&chunk);
        self.not_before.remove(&chunk);
        if is_queued {
            // A newer attempt that nobody needs any more.
            self.remove_tasks(chunk).await;
        }
        self.tell_progress();
    }

    /// Takes a record out of the done log, so that the chunk can be done again.
    async fn retract(&mut self, chunk: ChunkId, sequence: u64, attempt: Attempt, reason: String) {
        tracing::warn!(%chunk, %attempt, reason, "taking a result back");
        let last = self.retracted.entry(chunk).or_insert(attempt);
        *last = attempt.max(*last);
        self.apply(
            chunk,
            ChunkEvent::Retracted { attempt, reason },
            Some(RetryClass::BadResult),
        );
        self.condemned.insert(chunk, sequence);
        self.execute_condemned().await;
    }

    /// Removes records that were taken back; what the farm does not remove now is tried again with the next
    /// tick.
    pub(super) async fn execute_condemned(&mut self) {
        for (chunk, sequence) in std::mem::take(&mut self.condemned) {
            if let Err(error) = self.done_log.retract(chunk, sequence).await {
                tracing::warn!(%chunk, error = one_line(&error), "cannot take a result back yet");
                self.condemned.insert(chunk, sequence);
            }
        }
    }

    pub(super) fn on_event(&mut self, event: Event) {
        let (chunk, worker) = (event.chunk, event.worker);
        self.workers.hear_of(&worker, Instant::now());
        let attempt = Attempt {
            // A worker that could not read the task does not know the epoch.
            epoch: match event.epoch {
                0 => self.look_up(chunk).map_or(0, |(state, _)| state.attempt().epoch),
                epoch => epoch,
            },
            number: event.attempt,
        };
        match event.kind {
            EventKind::Started => {
                self.note_start(chunk, attempt, &worker);
                self.apply(chunk, ChunkEvent::Started { attempt, worker }, None);
            }
            EventKind::Released => self.apply(chunk, ChunkEvent::GivenBack { attempt }, None),
            EventKind::Failed(failure) => {
                let class = RetryClass::of(&failure);
                tracing::debug!(%chunk, %worker, ?failure, "an attempt failed");
                if self.is_under_way(chunk, attempt) {
                    self.note_failure(chunk, attempt.number, &worker, &failure);
                } else {
                    self.note_late_failure(chunk, attempt.number, &worker, &failure);
                }
                self.apply(chunk, ChunkEvent::Failed { attempt, failure }, Some(class));
            }
        }
    }

    /// Whether a report about this attempt is about the one that counts.
    fn is_under_way(&self, chunk: ChunkId, attempt: Attempt) -> bool {
        let Some((state, _)) = self.look_up(chunk) else {
            return false;
        };
        match state {
            ChunkState::Backlog { .. } => attempt >= state.attempt(),
            ChunkState::Queued { .. } | ChunkState::Running { .. } => attempt == state.attempt(),
            ChunkState::Waiting { .. } | ChunkState::Done { .. } | ChunkState::Quarantined { .. } => false,
        }
    }

    fn note_start(&mut self, chunk: ChunkId, attempt: Attempt, worker: &WorkerId) {
        self.journal.note(Entry::Started {
            chunk: short(chunk),
            attempt: attempt.number,
            worker: worker.to_string(),
        });
    }

    pub(super) fn on_heartbeat(&mut self, heartbeat: Heartbeat) {
        self.adopt(&heartbeat);
        self.notice_dropped(&heartbeat);
        let (worker, device) = (heartbeat.worker.clone(), heartbeat.device.clone());
        if self.workers.hear(heartbeat.clone(), Instant::now()) {
            self.notify(JobEvent::WorkerJoined { worker, device });
        }
        self.notify(JobEvent::Heartbeat(heartbeat));
    }

    /// A worker that is still at work on a task of an earlier coordinator keeps it.
    fn adopt(&mut self, heartbeat: &Heartbeat) {
        let Some(task) = &heartbeat.task else { return };
        let Some(attempt) = self.leftovers.get(&task.chunk).copied() else {
            return;
        };
        if attempt.number == task.attempt {
            self.leftovers.remove(&task.chunk);
            self.not_before.remove(&task.chunk);
            let worker = heartbeat.worker.clone();
            self.apply(task.chunk, ChunkEvent::Started { attempt, worker }, None);
        }
    }

    /// A worker that was started anew under its name has forgotten its chunk; so it is given to another long
    /// before the queue would.
    fn notice_dropped(&mut self, heartbeat: &Heartbeat) {
        let now = Instant::now();
        let at_work_on = heartbeat.task.as_ref().map(|task| task.chunk);
        for chunk in self.running_on(&heartbeat.worker) {
            if at_work_on == Some(chunk) {
                self.dropped.remove(&chunk);
            } else if now - *self.dropped.entry(chunk).or_insert(now) > self.settings.pace.worker_silence / 2
            {
                let worker = heartbeat.worker.clone();
                self.apply(
                    chunk,
                    ChunkEvent::WorkerLost { worker },
                    Some(RetryClass::WorkerLost),
                );
            }
        }
    }

    pub(super) fn expire_workers(&mut self, now: Instant) {
        let listening = self.farm.connection.client.connection_state() == State::Connected;
        for gone in self.workers.expire(now, listening) {
            let worker = gone.worker;
            if gone.expected {
                self.notify(JobEvent::WorkerLeft {
                    worker: worker.clone(),
                });
            } else {
                self.notify(JobEvent::WorkerLost {
                    worker: worker.clone(),
                });
            }
            for chunk in self.running_on(&worker) {
                let worker = worker.clone();
                self.apply(
                    chunk,
                    ChunkEvent::WorkerLost { worker },
                    Some(RetryClass::WorkerLost),
                );
            }
        }
    }

    fn running_on(&self, lost: &WorkerId) -> Vec<ChunkId> {
        let works = [Work::Analyze, Work::Render];
        let chunks = works.into_iter().flat_map(|work| {
            let running = self.state.of(work).iter().filter(
                |(_, _, state)| matches!(state, ChunkState::Running { worker, .. } if worker == lost),
            );
            running.map(move |(index, _, _)| (work, index))
        });
        let in_check = self.verifier.under_way();
        chunks
            .map(|(work, index)| self.chunk(work, index))
            .filter(|chunk| !in_check.contains(chunk))
            .collect()
    }

    fn look_up(&self, chunk: ChunkId) -> Option<(&ChunkState, latentfarm_common::time::FrameRange)> {
        let chunks = self.state.of(chunk.work);
        let ours = chunk.job == self.spec.id;
        ours.then(|| chunks.get(chunk.index).zip(chunks.range(chunk.index)))
            .flatten()
    }
}
