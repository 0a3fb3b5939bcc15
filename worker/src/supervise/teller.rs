//! What a running task tells: the broker that it is alive, and the heartbeats how far it is. The runner makes one for
//! each task.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use latentfarm_common::wire::Message;
use latentfarm_common::wire::engine::EngineStage;
use latentfarm_common::wire::outcome::TaskStage;

use super::child::{Child, ChildError};
use crate::consume::Progress;

/// How often a long stage shows that its child is being waited for.
pub(super) const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Tells the broker and the heartbeats how far a task is.
pub(super) struct Teller<'a> {
    pub(super) progress: &'a Progress,
    frames_done: AtomicU32,
}

impl<'a> Teller<'a> {
    /// A teller of a task that has begun.
    pub(super) fn new(progress: &'a Progress) -> Self {
        Self {
            progress,
            frames_done: AtomicU32::new(0),
        }
    }

    /// Returns how many frames are new.
    pub(super) fn frames(&self, frames_done: u32, stage: TaskStage) -> u32 {
        let before = self.frames_done.swap(frames_done, Ordering::Relaxed);
        self.progress.report(frames_done, stage);
        frames_done.saturating_sub(before)
    }

    /// A child's next message. While it is waited for, the broker is told that the task is alive: one step of
    /// a large model takes longer than the broker's patience on a CPU. A child that hangs is killed after the
    /// silence limit, which bounds this.
    pub(super) async fn receive<M: Message>(
        &self,
        child: &mut Child,
        limit: Duration,
    ) -> Result<M, ChildError> {
        let message = child.receive(limit);
        tokio::pin!(message);
        loop {
            tokio::select! {
                message = &mut message => return message,
                () = tokio::time::sleep(ALIVE_INTERVAL) => self.progress.step(),
            }
        }
    }

    /// The engine has reached `stage`.
    pub(super) fn engine(&self, stage: EngineStage) {
        let frames_done = self.frames_done.load(Ordering::Relaxed);
        self.progress.report(frames_done, TaskStage::Engine(stage));
    }
}
