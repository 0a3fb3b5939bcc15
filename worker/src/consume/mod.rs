//! The worker's loop: pull a task that fits, run it, commit its result, answer the broker.
//!
//! ```text
//!        room ─▶ queues that fit ─▶ pull ─▶ done already? ──yes──▶ ack
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
mod error;
mod find;
mod handle;
mod progress;
mod runner;
mod settings;
mod vitals;

use latentfarm_common::nats::Connection;
use latentfarm_common::queues::fitting;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire::outcome::WorkerState;

pub use error::ServeError;
pub use progress::Progress;
pub use runner::{Artifact, Assignment, Finished, TaskRunner};
pub use settings::Settings;
pub use vitals::Vitals;

use control::Control;
use find::Finder;
use handle::Handled;
use vitals::Heartbeats;

/// What a worker did until it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Chunks whose record this worker wrote.
    pub finished: u64,
    /// Tasks that failed, or came to nothing because another worker was first.
    pub unfinished: u64,
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
    let mut unfit = settings.unfit_waits.clone();
    let heartbeats = Heartbeats::start(connection, vitals, settings.heartbeat);
    let mut summary = Summary::default();
    tracing::info!(worker = %settings.worker, "ready for tasks");
    loop {
        control.forget_cancels();
        if !shutdown.is_running() || control.draining() {
            break;
        }
        vitals.set_state(WorkerState::Idle);
        let queues = fitting(&runner.available().await);
        let Some(message) = finder.find(&queues, &mut shutdown, &mut control).await else {
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
