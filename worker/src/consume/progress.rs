//! The progress of a running task: the loop makes one for each task, and whoever runs the task reports to it.

use std::time::Duration;

use latentfarm_common::ids::ChunkId;
use latentfarm_common::wire::outcome::TaskStage;
use tokio::sync::watch;

use super::heartbeat_state::HeartbeatState;

/// Counts steps, by which the broker learns that the task is alive, and updates frames and stage in the
/// heartbeats.
#[derive(Debug)]
pub struct Progress {
    steps: watch::Sender<u64>,
    heartbeat_state: HeartbeatState,
    chunk: ChunkId,
}

impl Progress {
    pub(crate) fn new(heartbeat_state: &HeartbeatState, chunk: ChunkId) -> (Self, watch::Receiver<u64>) {
        let (steps, receiver) = watch::channel(0);
        let progress = Self {
            steps,
            heartbeat_state: heartbeat_state.clone(),
            chunk,
        };
        (progress, receiver)
    }

    /// Counts a step: a denoising step, a frame, a part of a download, or a stretch of a long stage that is
    /// still within its time limit. The mere passing of time is no step, as a hung task must go to another worker.
    pub fn step(&self) {
        self.steps.send_modify(|steps| *steps += 1);
    }

    /// Counts steps at this interval until `work` is done. It must be bounded by a time limit of its own.
    pub async fn step_while<T>(&self, interval: Duration, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = tokio::time::sleep(interval) => self.step(),
            }
        }
    }

    /// Reports the number of the chunk's frames that are done, and the stage that runs now. It is a step only
    /// if either has changed.
    pub fn report(&self, frames_done: u32, stage: TaskStage) {
        let mut changed = false;
        self.heartbeat_state.update_task(self.chunk, |task| {
            changed = task.frames_done != frames_done || task.stage != stage;
            if changed {
                task.frames_done = frames_done;
                task.stage = stage;
            }
        });
        if changed {
            self.step();
        }
    }

    /// Reports that the result cannot be stored yet.
    pub(super) fn store_is_full(&self) {
        self.heartbeat_state
            .update_task(self.chunk, |task| task.stage = TaskStage::StoreFull);
    }

    /// The number of steps so far.
    pub fn steps(&self) -> u64 {
        *self.steps.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::ids::{Attempt, JobId, WorkKind};

    #[test]
    fn the_same_report_twice_is_one_step() {
        let heartbeat_state = HeartbeatState::new("w1".parse().unwrap(), "cpu".to_owned());
        let job: JobId = "0123456789abcdef".parse().unwrap();
        let work = WorkKind::Render;
        let chunk = ChunkId { job, work, index: 0 };
        heartbeat_state.set_task(chunk, Attempt::default(), 16, None);
        let (progress, _) = Progress::new(&heartbeat_state, chunk);
        progress.report(1, TaskStage::FaceAnalysis);
        progress.report(1, TaskStage::FaceAnalysis);
        assert_eq!(progress.steps(), 1);
        progress.report(1, TaskStage::Encoded);
        progress.report(2, TaskStage::Encoded);
        assert_eq!(progress.steps(), 3);
        let task = heartbeat_state.snapshot().task.unwrap();
        assert_eq!((task.frames_done, task.stage), (2, TaskStage::Encoded));
    }
}
