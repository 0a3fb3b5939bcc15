//! Runs tasks with the two children: fetches what a task names, carries crops between the media child and the
//! engine, and classes whatever goes wrong.
//!
//! ```text
//!            crops                     window
//! media ───────────────▶ supervisor ───────────▶ engine
//!   ▲  rendered crops         │  ◀─────────────   stays warm between tasks
//!   └─────────────────────────┘     faces
//! ```
//! A child that failed in mid-conversation, or whose task was dropped, is never talked to again: it is killed
//! and the next task starts a fresh one.

mod analyze;
mod child;
pub mod drift;
mod engine;
mod fetch;
mod leak;
mod lessons;
mod loss;
mod meter;
mod overlap;
mod pace;
mod rate;
mod render;
mod sight;
mod talk;
mod warm_engine;
mod windows;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::lanes::Available;
use latentfarm_common::wire::Message;
use latentfarm_common::wire::engine::EngineStage;
use latentfarm_common::wire::memory::{MemoryConstraints, OutOfMemory};
use latentfarm_common::wire::outcome::{Failure, TaskStage};
use latentfarm_common::wire::task::{Task, TaskBody};

use crate::consume::{Assignment, Finished, Progress, TaskRunner, Vitals};
use crate::machine::choice::{self, Limits};
use crate::machine::claims::Claims;
use crate::machine::probe::{Device, Probe};
use fetch::Fetcher;
use lessons::Lessons;
use pace::Pace;
use sight::{Refresher, Sight};
use warm_engine::Engine;

pub use child::{Cause, Child, ChildCommand, ChildEnd, ChildError};

/// How often a long stage shows that its child is being waited for.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How a worker runs its children.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    pub weights_dir: PathBuf,
    /// Where the engine computes: tasks for devices of another kind are not for this runner.
    pub device: Device,
    pub media: ChildCommand,
    pub engine: ChildCommand,
    /// Where segments are encoded and fetched blobs are kept while a task runs.
    pub scratch: PathBuf,
    pub limits: Limits,
    /// Uses of memory, in GiB, that are warned of.
    pub warn_gib: Vec<u64>,
    /// Folder of the promises between this host's workers.
    pub claims: PathBuf,
    /// A child that says nothing for so long is taken for hung, unless it is known how long its work takes.
    pub silence_limit: Duration,
}

/// Runs one task at a time; the children stay warm in between.
pub struct Runner {
    settings: RunnerSettings,
    vitals: Vitals,
    sight: Sight,
    claims: Claims,
    pace: Pace,
    media: Option<Child>,
    engine: Option<Engine>,
    /// Engines that were replaced because their memory grew.
    restarts: u32,
    lessons: Lessons,
    _refresher: Refresher,
}

/// Tells the broker and the heartbeats how far a task is.
struct Teller<'a> {
    progress: &'a Progress,
    frames_done: AtomicU32,
}

impl Teller<'_> {
    /// Returns how many frames are new.
    fn frames(&self, frames_done: u32, stage: TaskStage) -> u32 {
        let before = self.frames_done.swap(frames_done, Ordering::Relaxed);
        self.progress.report(frames_done, stage);
        frames_done.saturating_sub(before)
    }

    /// A child's next message. While it is waited for, the broker is told that the task is alive: one step of
    /// a large model takes longer than the broker's patience on a CPU. A child that hangs is killed after the
    /// silence limit, which bounds this.
    async fn receive<M: Message>(&self, child: &mut Child, limit: Duration) -> Result<M, ChildError> {
        let message = child.receive(limit);
        tokio::pin!(message);
        loop {
            tokio::select! {
                message = &mut message => return message,
                () = tokio::time::sleep(ALIVE_INTERVAL) => self.progress.step(),
            }
        }
    }

    fn engine(&self, stage: EngineStage) {
        let frames_done = self.frames_done.load(Ordering::Relaxed);
        self.progress.report(frames_done, TaskStage::Engine(stage));
    }
}

impl TaskRunner for Runner {
    async fn available(&mut self) -> Available {
        // A task that was dropped in its middle has left its claim.
        self.claims.release();
        let look = self.sight.look(self.claims.others_mib()).await;
        self.sight.show(&look, &self.vitals);
        choice::available(&look.snapshot, &self.settings.limits)
    }

    async fn run(&mut self, assignment: Assignment<'_>) -> Result<Finished, Failure> {
        let Assignment {
            task,
            store,
            progress,
            mut stop,
        } = assignment;
        let teller = Teller {
            progress,
            frames_done: AtomicU32::new(0),
        };
        let stopped = stop.wait_for(|stop| *stop);
        let outcome = tokio::select! {
            // A child in mid-conversation dies with the future that holds it.
            _ = stopped => Err(Failure::Transient { message: "stopped on request".to_owned() }),
            outcome = self.perform(task, store, &teller) => outcome,
        };
        // What the task has taken stays with the engine and is seen there.
        self.claims.release();
        outcome
    }
}

impl Runner {
    /// Begins to show the device in the heartbeats. Needs a tokio runtime.
    pub fn new(settings: RunnerSettings, probe: Probe, vitals: Vitals) -> Self {
        let device = settings.device.clone();
        let worker = vitals.snapshot().worker;
        let claims = Claims::new(&settings.claims, &device.key(), worker.as_str());
        let sight = Sight::new(device, probe, settings.limits, &settings.warn_gib);
        Self {
            _refresher: sight.keep_fresh(&vitals),
            pace: Pace::new(settings.silence_limit),
            settings,
            vitals,
            sight,
            claims,
            media: None,
            engine: None,
            restarts: 0,
            lessons: Lessons::default(),
        }
    }

    /// Ends the warm children.
    pub async fn close(mut self) {
        self.close_engine().await;
        if let Some(media) = self.media.take() {
            media.close().await;
        }
    }

    async fn perform(
        &mut self,
        task: &Task,
        store: &Store,
        teller: &Teller<'_>,
    ) -> Result<Finished, Failure> {
        let scratch = self.settings.scratch.clone();
        clear(&scratch)?;
        let fetcher = Fetcher {
            store,
            scratch: &scratch,
        };
        match &task.body {
            TaskBody::Analyze(body) => self.analyze(body, &fetcher, teller).await,
            TaskBody::Render(body) => {
                let outcome = self.render(task, body, &fetcher, teller).await;
                self.learn(&body.memory, &outcome);
                outcome
            }
        }
    }

    /// Notes what a task showed of its need. A kill shows nothing: its cause is a guess.
    fn learn(&mut self, constraints: &MemoryConstraints, outcome: &Result<Finished, Failure>) {
        if let Err(Failure::OutOfMemory(OutOfMemory {
            plan,
            needed_at_least_mib: Some(mib),
            suspected: false,
            ..
        })) = outcome
        {
            self.lessons.ran_out(constraints, *plan, *mib);
        }
    }

    /// The warm media child, or a fresh one. The caller puts it back once the conversation has ended well.
    fn take_media(&mut self) -> Result<Child, Failure> {
        if let Some(mut child) = self.media.take()
            && child.is_alive()
        {
            child.forget_words();
            return Ok(child);
        }
        let child = Child::spawn(&self.settings.media).map_err(|error| Failure::WorkerUnfit {
            message: one_line(&error),
        })?;
        self.sight.media_is(child.pid());
        Ok(child)
    }
}

/// Empties the scratch folder: what the last task left is of no use to the next.
fn clear(scratch: &Path) -> Result<(), Failure> {
    let unfit = |error: std::io::Error| Failure::WorkerUnfit {
        message: format!("cannot empty the scratch folder `{}`: {error}", scratch.display()),
    };
    match std::fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(unfit(error)),
        _ => {}
    }
    std::fs::create_dir_all(scratch).map_err(unfit)
}

#[cfg(test)]
mod tests;
