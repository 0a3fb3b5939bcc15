//! A farm of many jobs: the standing coordinator that `latentfarm serve` runs, and the requests with which the
//! other commands talk to it.
//!
//! ```text
//!  submit, jobs, cancel ..  ─▶ farm.request ─▶ serve ─┬─▶ Registry   (which jobs there are, and whose turn it is)
//!                                                     ├─▶ RecordStore ─▶ farm-jobs  (orders and records of jobs)
//!                                                     └─▶ Attempt    (one for each job on the dispatcher)
//!                                                            └─▶ Order ─▶ the dispatcher of the farm
//! ```
//! Whoever submits a job checks, stores and cuts its inputs, where they are; the coordinator needs none of the
//! files. The output is joined where it is fetched.

mod attempt;
mod audit;
mod backup;
mod client;
mod coordinator;
mod error;
mod fetch;
mod messages;
mod records;
mod registry;
mod render;
mod result;
mod serve;
mod share;
mod share_weights;
mod submit;
mod sweep;
mod watch;
mod watchers;

pub use audit::{Audit, AuditError, Finding, audit};
pub use backup::{
    Backup, BackupError, BackupFileError, Progress as BackupProgress, RestoreError, Totals as BackupTotals,
    backup, restore,
};
pub use client::{ClientError, FarmClient};
pub use coordinator::{CoordinatorSettings, Retention};
pub use error::ServeError;
pub use fetch::{FetchError, fetch};
pub use messages::{
    Control, Delivery, FarmRequest, JobOrder, JobOutcome, JobPhase, JobRecord, JobSort, JobView, ListFilter,
    MadeForecast, OneMore, Outlook, PAGE, Submission,
};
pub use render::{FarmRenderError, render};
pub use serve::{FarmServer, Ready, ServeSettings, serve};
pub use share_weights::{ShareOutcome, ShareWeightsError, share_weights};
pub use submit::{SubmitError, SubmitOptions, Then, submit};
pub use watch::watch;
