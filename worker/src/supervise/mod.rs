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
mod fetch;
mod leak;
mod lessons;
mod loss;
mod meter;
mod overlap;
mod pace;
mod rate;
mod render;
mod settings;
mod sight;
mod talk;
mod teller;
mod warm_engine;
mod warm_media;

use std::path::Path;
use std::sync::Arc;

use latentfarm_common::blob::Store;
use latentfarm_common::error::unless_absent;
use latentfarm_common::queues::Available;
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::{Task, TaskBody};
use tokio::task::JoinSet;

use crate::consume::{Assignment, Finished, TaskRunner, Vitals};
use crate::machine::probe::Probe;
use fetch::Fetcher;
use sight::Sight;
use teller::Teller;
use warm_engine::WarmEngine;
use warm_media::WarmMedia;

pub use child::{Cause, Child, ChildCommand, ChildEnd, ChildError};
pub use settings::RunnerSettings;

/// Runs one task at a time; the children stay warm in between.
pub struct Runner {
    settings: Arc<RunnerSettings>,
    media: WarmMedia,
    engine: WarmEngine,
    /// Shows the device in the heartbeats until it is dropped.
    _refresher: JoinSet<()>,
}

impl TaskRunner for Runner {
    async fn available(&mut self) -> Available {
        self.engine.available().await
    }

    async fn run(&mut self, assignment: Assignment<'_>) -> Result<Finished, Failure> {
        let Assignment {
            task,
            store,
            progress,
            mut stop,
        } = assignment;
        let teller = Teller::new(progress);
        let stopped = stop.wait_for(|stop| *stop);
        let outcome = tokio::select! {
            // A child in mid-conversation dies with the future that holds it.
            _ = stopped => Err(Failure::Transient { message: "stopped on request".to_owned() }),
            outcome = self.perform(task, store, &teller) => outcome,
        };
        // What the task has taken stays with the engine and is seen there.
        self.engine.claims.release();
        outcome
    }
}

impl Runner {
    /// Begins to show the device in the heartbeats. MemoryRequirements a tokio runtime.
    pub fn new(settings: RunnerSettings, probe: Probe, vitals: Vitals) -> Self {
        let settings = Arc::new(settings);
        let sight = Sight::new(
            settings.device.clone(),
            probe,
            settings.limits,
            &settings.warn_gib,
        );
        Self {
            _refresher: sight.keep_fresh(&vitals),
            media: WarmMedia::new(Arc::clone(&settings), sight.clone()),
            engine: WarmEngine::new(Arc::clone(&settings), sight, vitals),
            settings,
        }
    }

    /// Ends the warm children.
    pub async fn close(mut self) {
        self.engine.close().await;
        self.media.close().await;
    }

    async fn perform(
        &mut self,
        task: &Task,
        store: &Store,
        teller: &Teller<'_>,
    ) -> Result<Finished, Failure> {
        let Self {
            settings,
            media,
            engine,
            ..
        } = self;
        let scratch = &settings.scratch;
        clear(scratch)?;
        let fetcher = Fetcher { store, scratch };
        match &task.body {
            TaskBody::Analyze(body) => analyze::analyze(media, engine, body, &fetcher, teller).await,
            TaskBody::Render(body) => {
                let outcome = render::render(media, engine, task, body, &fetcher, teller).await;
                engine.learn(&body.memory, &outcome);
                outcome
            }
        }
    }
}

/// Empties the scratch folder: what the last task left is of no use to the next.
fn clear(scratch: &Path) -> Result<(), Failure> {
    let unfit = |error: std::io::Error| Failure::WorkerUnfit {
        message: format!("cannot empty the scratch folder `{}`: {error}", scratch.display()),
    };
    unless_absent(std::fs::remove_dir_all(scratch))
        .and_then(|()| std::fs::create_dir_all(scratch))
        .map_err(unfit)
}

#[cfg(test)]
mod tests;
