//! The worker's loop: pull a task that fits, run it, commit its result, answer the broker.
//!
//! ```text
//!        room ─▶ lanes that fit ─▶ pull ─▶ done already? ──yes──▶ ack
//!                                             │ no
//!                                      event: started
//!                                             │
//!                                        run the task ──failure──▶ event: failed ─▶ term
//!                                             │                     (unfit: nak, step back)
//!                  blob ─▶ check ─▶ done record by compare-and-set ─▶ ack
//! ```
//! The order of the last line is what makes repeats harmless: a task is acknowledged only after its chunk's
//! record exists, and the first record stays. What fails is published as an event before the task goes, so the
//! coordinator decides about the next attempt and the broker's delivery count is never the retry budget.

mod commit;
mod control;
mod find;
mod handle;
mod progress;
mod vitals;

use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::Store;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::lanes::{Available, fitting};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::ack::PROGRESS_INTERVAL;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire::memory::MemoryUse;
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings, WorkerState};
use latentfarm_common::wire::task::Task;
use tokio::sync::watch;

pub use progress::Progress;
pub use vitals::Vitals;

use control::Control;
use find::Finder;
use handle::Handled;
use vitals::Heartbeats;

/// The loop's intervals; the defaults are right outside tests.
#[derive(Clone, Debug)]
pub struct Settings {
    pub worker: WorkerId,
    /// How long one lane is waited on before all are looked at again.
    pub poll: Duration,
    pub heartbeat: Duration,
    /// How often the broker is told that work advances; a third of the lanes' `ack_wait`.
    pub tell_progress: Duration,
    /// How long a runner that was told to stop may take before it is dropped.
    pub stop_grace: Duration,
    /// Shortest and longest wait of a worker that is unfit, before it tries again.
    pub unfit_waits: (Duration, Duration),
}

impl Settings {
    pub fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            poll: Duration::from_secs(5),
            heartbeat: Duration::from_secs(2),
            tell_progress: PROGRESS_INTERVAL,
            stop_grace: Duration::from_secs(10),
            unfit_waits: (Duration::from_secs(2), Duration::from_mins(2)),
        }
    }
}

/// What a chunk's result is made of.
#[derive(Clone, Debug)]
pub enum Artifact {
    /// A file; it may be removed once `run`'s caller is done, at the next call of the runner.
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// A task that was run to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    pub artifact: Artifact,
    pub body: DoneBody,
    pub timings: StageTimings,
    /// Build + instruction set + device: results of equal kinds are equal bit for bit.
    pub numeric_kind: String,
    /// `None` where no model ran.
    pub memory: Option<MemoryUse>,
}

/// A task to run, and what it takes.
#[derive(Debug)]
pub struct Assignment<'a> {
    pub task: &'a Task,
    /// Where the task's blobs are.
    pub store: &'a Store,
    /// To be told of every step; without steps the broker gives the task to another worker.
    pub progress: &'a Progress,
    /// Becomes true when the task is cancelled or the worker must leave: return soon, with any failure.
    pub stop: watch::Receiver<bool>,
}

/// Runs tasks: the supervisor with its children, or a stand-in in tests.
pub trait TaskRunner: Send {
    /// What fits at this moment; asked before every pull.
    fn available(&mut self) -> impl Future<Output = Available> + Send;

    /// Runs one task. The future may be dropped where it does not return in time after `stop`.
    fn run(&mut self, assignment: Assignment<'_>) -> impl Future<Output = Result<Finished, Failure>> + Send;
}

/// What a worker did until it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Chunks whose record this worker wrote.
    pub finished: u64,
    /// Tasks that failed, or came to nothing because another worker was first.
    pub unfinished: u64,
}

/// Why the loop could not start. Once it runs it overcomes errors of the link and says so in the log.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot subscribe to `{subject}`")]
    Subscribe {
        subject: String,
        #[source]
        source: async_nats::SubscribeError,
    },
    #[error("cannot use these waits of an unfit worker")]
    Waits(#[source] latentfarm_common::backoff::InvalidBackoff),
}

/// Works until `shutdown` asks for a drain (or the coordinator does): the task at hand is finished, or given
/// back where the shutdown goes on to stopping.
pub async fn serve<R: TaskRunner>(
    connection: &Connection,
    settings: &Settings,
    runner: &mut R,
    vitals: &Vitals,
    mut shutdown: Shutdown,
) -> Result<Summary, ServeError> {
    let _permit = shutdown.permit();
    let mut control = Control::subscribe(connection, &settings.worker).await?;
    let mut finder = Finder::subscribe(connection, settings.poll).await?;
    let mut unfit =
        Backoff::new(settings.unfit_waits.0, settings.unfit_waits.1).map_err(ServeError::Waits)?;
    let heartbeats = Heartbeats::start(connection, vitals, settings.heartbeat);
    let mut summary = Summary::default();
    tracing::info!(worker = %settings.worker, "ready for tasks");
    loop {
        control.forget_cancels();
        if !shutdown.is_running() || control.draining() {
            break;
        }
        vitals.set_state(WorkerState::Idle);
        let lanes = fitting(&runner.available().await);
        let Some(message) = finder.find(&lanes, &mut shutdown, &mut control).await else {
            continue;
        };
        vitals.set_state(WorkerState::Working);
        let handled = handle::handle(
            connection,
            settings,
            runner,
            vitals,
            message,
            &mut shutdown,
            &mut control,
        )
        .await;
        vitals.clear_task();
        match handled {
            Handled::Finished => {
                summary.finished += 1;
                vitals.update(|heartbeat| heartbeat.finished += 1);
                unfit.reset();
            }
            Handled::Unfinished => summary.unfinished += 1,
            Handled::Nothing => {}
            Handled::Unfit => {
                summary.unfinished += 1;
                vitals.set_state(WorkerState::Unfit);
                let delay = unfit.next_delay();
                tracing::warn!(
                    ?delay,
                    "this worker is unfit and steps back before it tries again"
                );
                let _ = tokio::time::timeout(delay, shutdown.reached(Phase::Draining)).await;
            }
        }
    }
    vitals.set_state(WorkerState::Left);
    heartbeats.last(connection, vitals).await;
    tracing::info!(worker = %settings.worker, finished = summary.finished, "leaves");
    Ok(summary)
}
