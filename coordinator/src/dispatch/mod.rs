//! Dispatches jobs over the farm. One task, the dispatcher, owns all state; everything else sends messages to
//! it.
//!
//! ```text
//!  done log ──▶ verify ─┐                 ┌ Workers, NeedEstimator ─▶ Placer ─┐
//!  events ──────────────┼─▶ Dispatcher ───┤                                   ├─▶ TaskPublisher ─▶ FARM_TASKS
//!  heartbeats ──────────┤   (the farm)    └ Job: Chunks, SpeakerTrack ────────┘   (a window of the backlogs)
//!  ticks, lease, signal ┘                     └─▶ JobLog: journal, report, JobEvent for the observer
//! ```
//! The state of the farm (workers, estimated needs, the window of each queue, the lease) is separate from the
//! state of a job: [`run_farm`] runs a farm with any number of jobs, which orders bring, and [`run_job`] one with
//! a single job.
//!
//! The manifest and the done log are the truth. A task may be lost or run twice; the first verified record of
//! a chunk counts. The dispatcher compares its state with the queue every minute, and rebuilds it from the
//! done log when the coordinator is started again.

mod backup;
pub mod benchmark_job;
mod border;
mod border_samples;
mod chunk_options;
mod claim;
pub(crate) mod command;
mod committed_load;
mod declined;
mod delay;
mod dispatcher;
mod doubtful;
mod error;
mod expected_pictures;
mod extra_tasks;
mod farm;
mod farm_link;
mod farm_message;
mod fit_of_kind;
mod followers;
mod give_up;
mod inbox;
mod job;
mod job_event;
mod job_reports;
mod job_waits;
mod judged;
mod kinds;
mod lease_view;
mod log;
mod measure_borders;
mod memory_request;
mod nats_link;
mod need_estimator;
mod order;
mod outage_watch;
mod placer;
mod publish_window;
mod publisher;
mod rebalance;
mod reconcile;
mod release;
mod repair;
mod report;
mod run;
mod run_spot_checks;
mod sampler;
mod segment_reader;
mod set_aside;
mod settings;
mod settle_claims;
mod shared_analysis;
mod signers;
#[cfg(test)]
mod simulation;
mod spot_checks;
#[cfg(test)]
mod tag_tests;
mod task_inputs;
#[cfg(test)]
#[expect(unreachable_pub, reason = "the integration tests include it too")]
mod test_support;
#[cfg(test)]
mod tests;
mod turn;
mod turnover;
mod unverified;
mod usage;
mod verdicts;
mod verify;
mod wait_reason;
mod weigh;
mod workers;

pub use crate::job::chunks::Ending;
pub use crate::job::retry::RetryClass;
pub use crate::placement::{CpuFallback, JobNeeds, OneKind};
pub use border::{KindBorders, MeasuredBorder};
pub use doubtful::DoubtfulChunk;
pub use error::DispatchError;
pub use farm::{Farm, FarmError};
pub use job_event::{JobEvent, Progress};
pub use log::{OomRecord, SetAsideRecord};
pub use order::{Admission, JobEnd, Order, PlannedJob};
pub(crate) use outage_watch::OutageWatch;
pub use report::JobReport;
pub use run::{OnlyJob, run_farm, run_job};
pub use segment_reader::{PictureComparison, SegmentCheck, SegmentReader};
pub use settings::{DEFAULT_UNPLACEABLE_WAIT, DispatchSettings, FarmSettings, JobSettings, Timeouts};
pub(crate) use signers::{Authorship, Signers};
pub use spot_checks::{Disagreement, SpotCheckReport};
pub use usage::{DeviceUse, MemoryUsage, PlanUse, deviation};
pub use wait_reason::WaitReason;
