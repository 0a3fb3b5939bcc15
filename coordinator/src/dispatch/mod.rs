//! Dispatches one job over the farm: one task owns its state, everything else only tells it what happened.
//!
//! ```text
//!  done log ──▶ verify ─┐                                    ┌─▶ FARM_TASKS (a short window of the backlog)
//!  events ──────────────┼─▶ Dispatcher: JobState, Track ─────┤
//!  heartbeats ──────────┤    (pure machines, pure decisions) └─▶ JobEvent for whoever watches
//!  ticks, lease, signal ┘
//! ```
//! Truth is the manifest and the done log. A task may be lost or run twice; the first verified record of a
//! chunk is the one that counts. Whatever is believed here is compared with the queue every minute, and is
//! rebuilt from the done log when the coordinator starts again.

mod apply;
mod backlog;
mod dispatcher;
#[cfg(test)]
#[expect(unreachable_pub, reason = "the integration tests include it too")]
mod fixture;
pub mod inputs;
mod intake;
pub mod made_up;
pub mod memory;
pub mod notice;
mod outcomes;
mod placing;
pub mod reconcile;
pub mod report;
mod settings;
mod shortfall;
mod stock;
pub mod verify;
pub mod window;
pub mod workers;

use std::sync::Arc;

use latentfarm_common::blob::Store;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::lease::Lease;
use latentfarm_common::nats::topology::{self, Topology};
use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::sync::mpsc;

use crate::job::state::GivenUp;
use crate::job::store;
use dispatcher::{Dispatcher, Parts};
use memory::learned::Learned;
use verify::Verifier;

pub use memory::{CpuFallback, JobNeeds};
pub use notice::{JobEvent, Progress};
pub use report::{JobReport, RetryClass};
pub use settings::{DEFAULT_UNPLACEABLE_WAIT, DispatchError, DispatchSettings, Pace};
pub use shortfall::OomNote;
pub use verify::Check;

/// The farm that a job runs on.
#[derive(Clone, Debug)]
pub struct Farm {
    pub connection: Connection,
    pub topology: Topology,
    /// Reachable by the workers under the same URL.
    pub store: Store,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every chunk is done.
    Complete,
    /// Some chunks were given up.
    Incomplete { quarantined: Vec<GivenUp> },
    /// No output frame could be made.
    Failed { quarantined: Vec<GivenUp> },
    /// No frame of the video has a usable face, and that was not allowed.
    NoFace,
    /// Asked to end; the same job goes on from here.
    Interrupted { frames_done: u64, frames: u64 },
}

/// A job's end and what there is of its output.
#[derive(Debug)]
pub struct JobResult {
    pub ending: Ending,
    /// Verified records of the render chunks that are done, in frame order.
    pub records: Vec<Arc<DoneRecord>>,
    pub report: JobReport,
    /// Still held: check it before the output gets its name, then release it.
    pub lease: Lease,
}

/// Runs a job to its end, or until `shutdown`. Becomes the farm's coordinator; stops at once when another one
/// takes over. `check` verifies the segment of each render record before it counts.
pub async fn run_job(
    farm: &Farm,
    spec: JobSpec,
    timeline: Timeline,
    settings: DispatchSettings,
    check: Check,
    observer: mpsc::UnboundedSender<JobEvent>,
    shutdown: Shutdown,
) -> Result<JobResult, DispatchError> {
    let ensured = topology::ensure(&farm.connection.context, &farm.topology).await;
    ensured.map_err(DispatchError::Topology)?;
    let known = store::agree(&farm.connection, &settings.job_dir, &spec).await?;
    let (holder, time) = (settings.holder.clone(), settings.lease_time);
    let lease = Lease::acquire(&farm.connection, &holder, time, settings.contention).await;
    let lease = lease.map_err(DispatchError::Lease)?;
    tracing::debug!(job = %spec.id, ?known, epoch = lease.epoch(), "dispatching");

    let learned = Learned::read(&farm.connection, &spec.model).await;
    let (verifier, verdicts) = Verifier::new(farm.store.clone(), check);
    let parts = Parts {
        farm,
        lease: &lease,
        spec: Arc::new(spec),
        timeline: Arc::new(timeline),
        settings,
        verifier,
        learned,
        observer,
    };
    match drive(parts, verdicts, shutdown).await {
        Ok((ending, records, report)) => Ok(JobResult {
            ending,
            records,
            report,
            lease,
        }),
        Err(error) => {
            // A lost lease is another's.
            if lease.is_held() {
                lease.release().await;
            }
            Err(error)
        }
    }
}

type Driven = (Ending, Vec<Arc<DoneRecord>>, JobReport);

async fn drive(
    parts: Parts<'_>,
    verdicts: mpsc::UnboundedReceiver<verify::Verdict>,
    shutdown: Shutdown,
) -> Result<Driven, DispatchError> {
    let mut dispatcher = Dispatcher::new(parts)?;
    let ending = dispatcher.run(verdicts, shutdown).await?;
    dispatcher.tell_progress();
    dispatcher.clear_queue().await;
    dispatcher.keep_learned(true).await;
    Ok((ending, dispatcher.records(), dispatcher.report()))
}
