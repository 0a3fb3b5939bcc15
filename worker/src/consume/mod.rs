//! The worker's loop: pulls a task that fits, has the runner run it, commits its result and answers the
//! broker. Each device of `latentfarm-worker run` has its own loop.
//!
//! ```text
//! free memory ─▶ queues that fit ─▶ pull ─▶ done already? ──yes──▶ ack
//!                                             │ no
//!                                      event: started
//!                                             │
//!                                        run the task ──failure──▶ event: failed ─▶ term
//!                                             │                     (unfit: nak, then wait)
//!                  blob ─▶ check ─▶ done record by compare-and-set ─▶ ack
//! ```
//! The order of the last line is what makes repeats harmless: a task is acknowledged only after its chunk's
//! record exists, and the first record stays. A failure is published as an event before the task is
//! terminated, so that the coordinator decides about the next attempt and the broker's delivery count is
//! never the retry budget.

mod commit;
mod control_inbox;
mod delivery;
mod error;
mod handle;
mod heartbeat_state;
mod idle_reporter;
mod progress;
mod puller;
mod runner;
mod settings;
mod task_message;

use latentfarm_common::nats::Connection;
use latentfarm_common::queues::fitting;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire::outcome::WorkerState;
use tokio::time::Instant;

pub use error::ServeError;
pub use heartbeat_state::HeartbeatState;
pub use progress::Progress;
pub use runner::{Artifact, Assignment, TaskOutput, TaskRunner};
pub use settings::Settings;

use control_inbox::ControlInbox;
use delivery::DeliveryOutcome;
use idle_reporter::IdleReporter;
use puller::TaskPuller;

/// How many tasks a worker ran until it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The number of chunks whose done record this worker wrote.
    pub finished: u64,
    /// The number of tasks that failed, or whose result came after that of another worker.
    pub unfinished: u64,
}

/// Runs tasks until `shutdown` or the coordinator requests a drain. The current task is then finished, or
/// given back to the broker if the shutdown goes on to stopping.
pub async fn serve<R: TaskRunner>(
    connection: &Connection,
    settings: &Settings,
    runner: &mut R,
    heartbeat_state: &HeartbeatState,
    mut shutdown: Shutdown,
) -> Result<Summary, ServeError> {
    let _permit = shutdown.permit();
    let mut control = ControlInbox::subscribe(connection, &settings.worker).await?;
    let mut puller = TaskPuller::subscribe(connection, settings.poll_interval).await?;
    let mut unfit = settings.unfit_backoff.clone();
    let heartbeats = heartbeat_state.start_publisher(connection, settings.heartbeat_interval);
    let mut summary = Summary::default();
    let mut idle = IdleReporter::default();
    tracing::info!(worker = %settings.worker, "ready for tasks");
    loop {
        control.drop_cancels();
        if !shutdown.is_running() || control.draining() {
            break;
        }
        heartbeat_state.set_state(WorkerState::Idle);
        if control.take_memory_request() {
            runner.free_memory().await;
        }
        let available = runner.available().await;
        let queues = fitting(&available);
        let Some(message) = puller.pull(&queues, &mut shutdown, &mut control).await else {
            let link = (connection.is_up(), connection.url());
            if let Some(line) = idle.note(link, &available, &runner.shortage(), Instant::now()) {
                tracing::info!("{line}");
            }
            continue;
        };
        idle.end();
        heartbeat_state.set_state(WorkerState::Working);
        let handled = handle::handle(
            connection,
            settings,
            runner,
            heartbeat_state,
            message,
            &mut shutdown,
            &mut control,
        )
        .await;
        heartbeat_state.update(|heartbeat| heartbeat.task = None);
        // A request that came during the task was for workers without one. It is repeated while it holds.
        control.take_memory_request();
        match handled {
            DeliveryOutcome::Finished => {
                summary.finished += 1;
                heartbeat_state.update(|heartbeat| heartbeat.finished += 1);
                unfit.reset();
            }
            DeliveryOutcome::Unfinished => summary.unfinished += 1,
            DeliveryOutcome::Skipped => {}
            DeliveryOutcome::Unfit => {
                summary.unfinished += 1;
                heartbeat_state.set_state(WorkerState::Unfit);
                let delay = unfit.next_delay();
                tracing::warn!(
                    ?delay,
                    "this worker is unfit for its tasks and waits before it tries again"
                );
                let _ = tokio::time::timeout(delay, shutdown.reached(Phase::Draining)).await;
            }
        }
    }
    heartbeat_state.set_state(WorkerState::Left);
    drop(heartbeats);
    heartbeat_state.publish(connection).await;
    tracing::info!(worker = %settings.worker, finished = summary.finished, "leaving the farm");
    Ok(summary)
}
