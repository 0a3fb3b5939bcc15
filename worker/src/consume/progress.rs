//! How a running task says that it advances.

use latentfarm_common::wire::outcome::TaskStage;
use tokio::sync::watch;

use super::vitals::Vitals;

/// Counts steps for the broker and shows frames and stage in the heartbeats.
#[derive(Debug)]
pub struct Progress {
    steps: watch::Sender<u64>,
    vitals: Vitals,
}

impl Progress {
    pub(crate) fn new(vitals: &Vitals) -> (Self, watch::Receiver<u64>) {
        let (steps, receiver) = watch::channel(0);
        let progress = Self {
            steps,
            vitals: vitals.clone(),
        };
        (progress, receiver)
    }

    /// Something advanced: a denoising step, a frame, a part of a download. Also for a long stage that is still
    /// within the time predicted for it. Not for the mere passing of time: a hung task must lose its lease.
    pub fn step(&self) {
        self.steps.send_modify(|steps| *steps += 1);
    }

    /// Frames finished of the chunk, and the stage that runs now. A step only if either changed.
    pub fn report(&self, frames_done: u32, stage: TaskStage) {
        let mut changed = false;
        self.vitals.update(|heartbeat| {
            if let Some(task) = &mut heartbeat.task {
                changed = task.frames_done != frames_done || task.stage != stage;
                if changed {
                    task.frames_done = frames_done;
                    task.stage = stage;
                }
            }
        });
        if changed {
            self.step();
        }
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        *self.steps.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::ids::{Attempt, ChunkId, JobId, Work};

    #[test]
    fn the_same_report_twice_is_one_step() {
        let vitals = Vitals::new("w1".parse().unwrap(), "cpu".to_owned());
        let job: JobId = "0123456789abcdef".parse().unwrap();
        let work = Work::Render;
        vitals.set_task(ChunkId { job, work, index: 0 }, Attempt::default(), 16, None);
        let (progress, _) = Progress::new(&vitals);
        progress.report(1, TaskStage::FaceAnalysis);
        progress.report(1, TaskStage::FaceAnalysis);
        assert_eq!(progress.steps(), 1);
        progress.report(1, TaskStage::Encoded);
        progress.report(2, TaskStage::Encoded);
        assert_eq!(progress.steps(), 3);
        let task = vitals.snapshot().task.unwrap();
        assert_eq!((task.frames_done, task.stage), (2, TaskStage::Encoded));
    }
}
