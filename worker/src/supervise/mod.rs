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
mod admitted_task;
mod analyze;
mod background;
mod child;
mod device_monitor;
mod device_turn;
mod engine_client;
mod failure_class;
mod fetch;
mod hang_detector;
pub mod leak_detector;
mod leaner_plan;
mod memory_recorder;
mod oom_bounds;
mod open_task;
mod progress_reporter;
mod render;
mod settings;
mod task_reservations;
mod throughput;
mod warm_engine;
mod warm_media;
mod weights;

use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use latentfarm_common::blob::Store;
use latentfarm_common::error::ignore_not_found;
use latentfarm_common::nats::Connection;
use latentfarm_common::queues::Available;
use latentfarm_common::wire::memory::RenderMemory;
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::{Task, TaskBody};
use tokio::task::JoinSet;

use crate::consume::{Assignment, Finish, HeartbeatState, Prepare, Prepared, TaskRunner};
use crate::machine::probe::Probe;
use background::Background;
use device_monitor::DeviceMonitor;
use fetch::{FetchFolder, Fetcher};
use open_task::OpenedTask;
use progress_reporter::ProgressReporter;
use warm_engine::WarmEngine;
use warm_media::WarmMedia;

pub use child::{Child, ChildCommand, ChildError, ChildExit, ExitCause};
pub use settings::RunnerSettings;
pub use weights::WeightsSource;

/// Runs one task at a time; the children stay running in between.
pub struct Runner {
    settings: Arc<RunnerSettings>,
    media: WarmMedia,
    engine: WarmEngine,
    folder: FetchFolder,
    /// Whether the scratch folder was emptied since this process began.
    is_cleared: bool,
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

    fn withheld(&self) -> RenderMemory {
        self.engine.withheld()
    }

    fn need_device(&mut self) {
        self.engine.set_device_needed(true);
    }

    fn device_changed(&self) -> BoxFuture<'static, ()> {
        self.engine.device_changed()
    }

    async fn rest(&mut self) {
        self.engine.set_device_needed(false);
        self.engine.lend_device().await;
    }

    async fn free_memory(&mut self) {
        self.engine.free_memory().await;
        self.media.free_memory().await;
    }

    fn preparer(&self) -> Option<Arc<dyn Prepare>> {
        Some(Arc::new(Preparer {
            media: self.media.clone(),
            folder: self.folder.clone(),
        }))
    }

    async fn run(&mut self, assignment: Assignment<'_>) -> Result<Finish, Failure> {
        let mut stop = assignment.stop.clone();
        let stopped = stop.wait_for(|stop| *stop);
        let outcome = tokio::select! {
            // A child in the middle of a request dies with the future that holds it.
            _ = stopped => Err(Failure::Transient { message: "stopped on request".to_owned() }),
            outcome = self.perform(assignment) => outcome,
        };
        // The memory that the task has taken stays with the engine and is read there.
        self.engine.reservations.release();
        outcome
    }
}

/// Opens tasks that are held, beside the one that runs.
struct Preparer {
    media: WarmMedia,
    folder: FetchFolder,
}

impl Prepare for Preparer {
    fn prepare(&self, task: &Task, store: &Store, link: &Connection) -> Option<Prepared> {
        let TaskBody::Render(body) = task.body.clone() else {
            return None;
        };
        let fetcher = Fetcher {
            store: store.clone(),
            link: Some(link.clone()),
            folder: self.folder.clone(),
        };
        let (task, media) = (task.clone(), self.media.clone());
        let opening = async move { open_task::open_ahead(&media, &task, &body, &fetcher).await };
        Some(Box::new(Background::spawn(opening)))
    }
}

impl Runner {
    /// Makes a runner and starts to refresh the device's figures in the heartbeats. Needs a tokio runtime.
    pub fn new(settings: RunnerSettings, probe: Probe, heartbeat_state: HeartbeatState) -> Self {
        let settings = Arc::new(settings);
        let monitor = DeviceMonitor::new(&settings, probe);
        Self {
            _refresher: monitor.start_refresher(&heartbeat_state),
            media: WarmMedia::new(Arc::clone(&settings), monitor.clone()),
            engine: WarmEngine::new(Arc::clone(&settings), monitor, heartbeat_state),
            folder: FetchFolder::new(&settings.scratch),
            is_cleared: false,
            settings,
        }
    }

    /// Ends both children and waits until they are gone.
    pub async fn close(mut self) {
        self.engine.close().await;
        self.media.free_memory().await;
    }

    async fn perform(&mut self, assignment: Assignment<'_>) -> Result<Finish, Failure> {
        let Assignment {
            task,
            store,
            link,
            progress,
            was_held,
            prepared,
            ..
        } = assignment;
        if !self.is_cleared {
            clear(&self.settings.scratch)?;
            self.is_cleared = true;
        }
        let fetcher = Fetcher {
            store: store.clone(),
            link: link.cloned(),
            folder: self.folder.clone(),
        };
        let (media, engine) = (&self.media, &mut self.engine);
        let reporter = Arc::new(ProgressReporter::new(progress));
        match &task.body {
            TaskBody::Analyze(body) => {
                // Face analysis needs no GPU.
                engine.lend_device().await;
                let output = analyze::analyze(media, engine, body, &fetcher, &reporter).await?;
                Ok(Box::pin(std::future::ready(Ok(output))))
            }
            TaskBody::Render(body) => {
                let opened = match prepared.and_then(|prepared| prepared.downcast().ok()) {
                    Some(opening) => opened_ahead(*opening).await,
                    None => None,
                };
                let work = (task, body);
                let outcome = render::render(media, engine, work, opened, was_held, &fetcher, reporter).await;
                engine.record_out_of_memory(&body.memory, &outcome);
                outcome
            }
        }
    }
}

/// Waits for a task that is being opened; `None` if that fails: it is opened again, and fails for the task itself.
async fn opened_ahead(opening: Background<OpenedTask>) -> Option<OpenedTask> {
    let opened = opening.finish().await;
    opened
        .inspect_err(|failure| tracing::debug!(?failure, "a task could not be opened ahead"))
        .ok()
}

/// Empties the scratch folder of what an earlier process has left.
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
