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
mod fetch;
mod overlap;
mod render;
mod windows;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::lanes::Room;
use latentfarm_common::wire::Message;
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::{Task, TaskBody};

use crate::consume::{Assignment, Finished, Progress, TaskRunner, Vitals};
use crate::memory::host;
use fetch::Fetcher;

pub use child::{Child, ChildCommand, ChildEnd, ChildError};

/// How often a long stage shows that its child is being waited for.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How a worker runs its children.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    pub weights_dir: PathBuf,
    /// Text form of the device: `cpu` or `cuda:0`.
    pub device: String,
    pub media: ChildCommand,
    pub engine: ChildCommand,
    /// Where segments are encoded and fetched blobs are kept while a task runs.
    pub scratch: PathBuf,
    /// Host memory that is left alone.
    pub reserve_mib: u64,
    /// A child that says nothing for so long is taken for hung.
    pub silence_limit: Duration,
}

/// Runs one task at a time; the children stay warm in between.
pub struct Runner {
    settings: RunnerSettings,
    vitals: Vitals,
    media: Option<Child>,
    engine: Option<Child>,
}

/// Tells the broker and the heartbeats how far a task is.
struct Teller<'a> {
    progress: &'a Progress,
    frames_done: AtomicU32,
}

impl Teller<'_> {
    fn frames(&self, frames_done: u32, stage: &str) {
        self.frames_done.store(frames_done, Ordering::Relaxed);
        self.progress.report(frames_done, stage);
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

    fn stage(&self, stage: &str) {
        self.progress
            .report(self.frames_done.load(Ordering::Relaxed), stage);
    }
}

impl TaskRunner for Runner {
    async fn room(&mut self) -> Room {
        let free_mib = host::available_mib();
        self.vitals.update(|heartbeat| {
            heartbeat.device_free_mib = free_mib;
            heartbeat.device_total_mib = host::total_mib();
            heartbeat.host_rss_mib = host::own_rss_mib();
        });
        // What the warm children hold is used again by the next task.
        let host_mib = (free_mib + self.held_mib()).saturating_sub(self.settings.reserve_mib);
        Room {
            analyze: true,
            host_mib: Some(host_mib),
            device_mib: None,
        }
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
        tokio::select! {
            // A child in mid-conversation dies with the future that holds it.
            _ = stopped => Err(Failure::Transient { message: "stopped on request".to_owned() }),
            outcome = self.perform(task, store, &teller) => outcome,
        }
    }
}

impl Runner {
    pub fn new(settings: RunnerSettings, vitals: Vitals) -> Self {
        Self {
            settings,
            vitals,
            media: None,
            engine: None,
        }
    }

    /// Ends the warm children.
    pub async fn close(self) {
        for child in [self.media, self.engine].into_iter().flatten() {
            child.close().await;
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
            TaskBody::Render(body) => self.render(task, body, &fetcher, teller).await,
        }
    }

    /// Host memory of the warm children, in MiB: the next task uses it again.
    fn held_mib(&self) -> u64 {
        let children = [self.media.as_ref(), self.engine.as_ref()];
        children
            .into_iter()
            .flatten()
            .filter_map(Child::pid)
            .map(host::rss_mib)
            .sum()
    }

    /// The warm media child, or a fresh one. The caller puts it back once the conversation has ended well.
    fn take_media(&mut self) -> Result<Child, Failure> {
        take(&mut self.media, &self.settings.media)
    }

    fn take_engine(&mut self) -> Result<Child, Failure> {
        take(&mut self.engine, &self.settings.engine)
    }
}

fn take(slot: &mut Option<Child>, command: &ChildCommand) -> Result<Child, Failure> {
    if let Some(mut child) = slot.take()
        && child.is_alive()
    {
        return Ok(child);
    }
    let unfit = |error| Failure::WorkerUnfit {
        message: one_line(&error),
    };
    Child::spawn(command).map_err(unfit)
}

/// The class of a child's death.
fn child_failure(error: &ChildError, settings: &RunnerSettings, stage: &str) -> Failure {
    let message = one_line(error);
    match error {
        ChildError::Ended { end, .. } if end.is_out_of_memory() => Failure::OutOfMemory {
            device: settings.device.clone(),
            stage: stage.to_owned(),
            needed_at_least_mib: None,
            free_before_mib: host::available_mib(),
        },
        _ => Failure::EngineLost { message },
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
