//! Runs tasks with the two children: fetches the blobs that a task names, carries crops between the media
//! child and the engine, and turns whatever goes wrong into a failure class. The loop in `consume` calls it
//! for each task that it pulls.
//!
//! ```text
//!            crops                     window
//! media ───────────────▶ supervisor ───────────▶ engine
//!   ▲  rendered crops         │  ◀─────────────   stays running between tasks
//!   └─────────────────────────┘     faces
//! ```
//! A child that failed in the middle of a request, or whose task was dropped, gets no other request: it is
//! killed and the next task starts a new one.

mod activity;
mod analyze;
mod child;
mod device_monitor;
mod engine_client;
mod failure_class;
mod fetch;
mod hang_detector;
pub mod leak_detector;
mod memory_recorder;
mod oom_bounds;
mod progress_reporter;
mod render;
mod settings;
mod throughput;
mod warm_engine;
mod warm_media;

use std::path::Path;
use std::sync::Arc;

use latentfarm_common::blob::Store;
use latentfarm_common::error::ignore_not_found;
use latentfarm_common::nats::Connection;
use latentfarm_common::queues::Available;
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::{Task, TaskBody};
use tokio::task::JoinSet;

use crate::consume::{Assignment, HeartbeatState, TaskOutput, TaskRunner};
use crate::machine::probe::Probe;
use device_monitor::DeviceMonitor;
use fetch::Fetcher;
use progress_reporter::ProgressReporter;
use warm_engine::WarmEngine;
use warm_media::WarmMedia;

pub use child::{Child, ChildCommand, ChildError, ChildExit, ExitCause};
pub use settings::RunnerSettings;

/// Runs one task at a time; the children stay running in between.
pub struct Runner {
    settings: Arc<RunnerSettings>,
    media: WarmMedia,
    engine: WarmEngine,
    /// Keeps the device's figures in the heartbeats fresh until it is dropped.
    _refresher: JoinSet<()>,
}

impl TaskRunner for Runner {
    async fn available(&mut self) -> Available {
        self.engine.available().await
    }

    fn shortage(&self) -> String {
        self.engine.shortage()
    }

    async fn free_memory(&mut self) {
        self.engine.free_memory().await;
        self.media.free_memory().await;
    }

    async fn run(&mut self, assignment: Assignment<'_>) -> Result<TaskOutput, Failure> {
        let Assignment {
            task,
            store,
            link,
            progress,
            mut stop,
        } = assignment;
        let reporter = ProgressReporter::new(progress);
        let stopped = stop.wait_for(|stop| *stop);
        let outcome = tokio::select! {
            // A child in the middle of a request dies with the future that holds it.
            _ = stopped => Err(Failure::Transient { message: "stopped on request".to_owned() }),
            outcome = self.perform(task, (store, link), &reporter) => outcome,
        };
        // The memory that the task has taken stays with the engine and is read there.
        self.engine.reservations.release();
        outcome
    }
}

impl Runner {
    /// Makes a runner and starts to refresh the device's figures in the heartbeats. Needs a tokio runtime.
    pub fn new(settings: RunnerSettings, probe: Probe, heartbeat_state: HeartbeatState) -> Self {
        let settings = Arc::new(settings);
        let monitor = DeviceMonitor::new(
            settings.device.clone(),
            probe,
            settings.limits,
            &settings.warn_gib,
        );
        Self {
            _refresher: monitor.start_refresher(&heartbeat_state),
            media: WarmMedia::new(Arc::clone(&settings), monitor.clone()),
            engine: WarmEngine::new(Arc::clone(&settings), monitor, heartbeat_state),
            settings,
        }
    }

    /// Ends both children and waits until they are gone.
    pub async fn close(mut self) {
        self.engine.close().await;
        self.media.close().await;
    }

    async fn perform(
        &mut self,
        task: &Task,
        (store, link): (&Store, Option<&Connection>),
        reporter: &ProgressReporter<'_>,
    ) -> Result<TaskOutput, Failure> {
        let Self {
            settings,
            media,
            engine,
            ..
        } = self;
        let scratch = &settings.scratch;
        clear(scratch)?;
        let fetcher = Fetcher { store, link, scratch };
        match &task.body {
            TaskBody::Analyze(body) => analyze::analyze(media, engine, body, &fetcher, reporter).await,
            TaskBody::Render(body) => {
                let outcome = render::render(media, engine, task, body, &fetcher, reporter).await;
                engine.record_out_of_memory(&body.memory, &outcome);
                outcome
            }
        }
    }
}

/// Empties the scratch folder, as the next task has no use for the files of the last one.
fn clear(scratch: &Path) -> Result<(), Failure> {
    let unfit = |error: std::io::Error| Failure::WorkerUnfit {
        message: format!("cannot empty the scratch folder `{}`: {error}", scratch.display()),
    };
    ignore_not_found(std::fs::remove_dir_all(scratch))
        .and_then(|()| std::fs::create_dir_all(scratch))
        .map_err(unfit)
}

#[cfg(test)]
mod tests;
