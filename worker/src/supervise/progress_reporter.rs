//! Reports the progress of a running task: to the broker that the task is alive, and to the heartbeats how
//! far it is. The runner makes one reporter for each task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use latentfarm_common::wire::Message;
use latentfarm_common::wire::engine::EngineStage;
use latentfarm_common::wire::outcome::TaskStage;

use super::child::{Child, ChildError};
use crate::consume::Progress;

/// How often a wait for a child counts as progress.
pub(super) const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Reports the progress of one task.
pub(super) struct ProgressReporter {
    pub(super) progress: Arc<Progress>,
    frames_done: AtomicU32,
}

impl ProgressReporter {
    pub(super) fn new(progress: &Arc<Progress>) -> Self {
        Self {
            progress: Arc::clone(progress),
            frames_done: AtomicU32::new(0),
        }
    }

    /// Reports the number of frames done and the stage; returns how many of the frames are new.
    pub(super) fn report_frames(&self, frames_done: u32, stage: TaskStage) -> u32 {
        let before = self.frames_done.swap(frames_done, Ordering::Relaxed);
        self.progress.report(frames_done, stage);
        frames_done.saturating_sub(before)
    }

    /// Returns a child's next message. The wait counts as progress, as one step of a large model on a CPU
    /// takes longer than the broker waits for an acknowledgement. It is bounded by `limit`, after which a
    /// silent child is killed.
    pub(super) async fn receive<M: Message>(
        &self,
        child: &mut Child,
        limit: Duration,
    ) -> Result<M, ChildError> {
        self.progress
            .step_while(ALIVE_INTERVAL, child.receive(limit))
            .await
    }

    /// Reports the stage that the engine has reached.
    pub(super) fn report_engine_stage(&self, stage: EngineStage) {
        let frames_done = self.frames_done.load(Ordering::Relaxed);
        self.progress.report(frames_done, TaskStage::Engine(stage));
    }
}
