//! Dispatches jobs over the farm: one task owns all state, everything else only sends it what happened.
//!
//! ```text
//!  done log ──▶ verify ─┐                 ┌ Workers, NeedEstimator ─▶ Placer ─┐
//!  events ──────────────┼─▶ Dispatcher ───┤                                   ├─▶ TaskPublisher ─▶ FARM_TASKS
//!  heartbeats ──────────┤   (the farm)    └ Job: Chunks, Track ───────────────┘   (a window of the backlogs)
//!  ticks, lease, signal ┘                     └─▶ JobLog: journal, report, JobEvent for whoever watches
//! ```
//! What belongs to the farm (workers, what was learned of needs, the window of each queue, the lease) is owned apart
//! from what belongs to a job, so a farm has any number of jobs; [`run_job`] runs a farm with one.
//!
//! Truth is the manifest and the done log. A task may be lost or run twice; the first verified record of a
//! chunk is the one that counts. Whatever is believed here is compared with the queue every minute, and is
//! rebuilt from the done log when the coordinator starts again.

pub mod benchmark_job;
mod dispatcher;
mod error;
mod fairness;
mod farm;
#[cfg(test)]
#[expect(unreachable_pub, reason = "the integration tests include it too")]
mod fixture;
mod inbox;
mod inputs;
mod job;
mod learned;
mod log;
mod notice;
mod placer;
mod publisher;
mod reconcile;
mod release;
mod report;
mod run;
mod settings;
#[cfg(test)]
mod tests;
mod usage;
mod verify;
mod workers;

pub use crate::job::chunks::Ending;
pub use crate::job::retry::RetryClass;
pub use crate::placement::{CpuFallback, JobNeeds};
pub use error::DispatchError;
pub use farm::Farm;
pub use log::OomNote;
pub use notice::{JobEvent, Progress};
pub use report::JobReport;
pub use run::{JobResult, run_job};
pub use settings::{DEFAULT_UNPLACEABLE_WAIT, DispatchSettings, FarmSettings, JobSettings, Pace};
pub use usage::{MemoryUsage, Place, PlanUse, deviation};
pub use verify::Check;
