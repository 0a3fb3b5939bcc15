//! What the dispatcher does about workers that fail: it counts their failures, and tells those that it sets aside, the
//! jobs' observers and their journals.

use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, WorkerId};
use latentfarm_common::tags::Tags;
use latentfarm_common::time::milliseconds;
use latentfarm_common::wire::outcome::{Failure, Heartbeat, WorkerCommand, WorkerState};
use tokio::time::Instant;

use super::dispatcher::Dispatcher;
use super::job_event::JobEvent;
use super::workers::SetAside;
use crate::job::retry::Cause;

impl Dispatcher<'_> {
    /// Counts a failure that a worker reported against the worker, unless the chunk or the memory is the cause.
    pub(super) fn on_worker_failure(&mut self, worker: &WorkerId, chunk: ChunkId, failure: &Failure) {
        let now = Instant::now();
        match failure {
            Failure::WorkerUnfit { message } => self.workers.record_unfit(worker, message, now),
            Failure::BadInput { .. } | Failure::Transient { .. } | Failure::EngineLost { .. } => {
                let reason = Cause::of(failure).reason;
                let job = self.jobs.get(&chunk.job);
                let needed = job.map_or(Tags::NONE, |job| job.settings.needed_tags.clone());
                self.workers
                    .record_failure(worker, (chunk, &needed), &reason, now);
            }
            Failure::OutOfMemory(_) | Failure::InsufficientMemory { .. } => {}
        }
    }

    /// Reports the workers that went out of service, and has those pause that are set aside.
    pub(super) async fn announce_set_aside(&mut self) {
        for out in self.workers.take_set_aside() {
            for job in self.jobs.values_mut() {
                job.log.on_set_aside(&out);
            }
            self.notify_all(&JobEvent::set_aside(&out));
            self.send_set_aside(&out).await;
        }
    }

    /// Repeats the command to a worker that is set aside and takes tasks all the same: it may have missed it.
    pub(super) async fn keep_set_aside(&mut self, heartbeat: &Heartbeat, now: Instant) {
        if !matches!(heartbeat.state, WorkerState::Idle | WorkerState::Working) {
            return;
        }
        if let Some(out) = self.workers.set_aside(&heartbeat.worker, now) {
            self.send_set_aside(&out).await;
        }
    }

    async fn send_set_aside(&self, out: &SetAside) {
        let Some(pause) = out.pause.filter(|pause| *pause > Duration::ZERO) else {
            return;
        };
        let set_aside = WorkerCommand::SetAside {
            pause_ms: milliseconds(pause),
            reason: out.reason.clone(),
        };
        if let Err(error) = self.link.command(Some(out.worker.clone()), set_aside).await {
            tracing::warn!(
                worker = %out.worker,
                error = one_line(&error),
                "cannot ask a worker to pause; it is asked again with its next heartbeat"
            );
        }
    }
}
