//! One render, from two input files to one verified output file. `latentfarm render` runs one on a farm of its own
//! with [`RenderJob::run_alone`]; a server of many jobs runs each with [`RenderJob::run`] on the farm that it has.
//!
//! ```text
//! RenderJob::check   inputs, weights and disk are looked at; nothing is written; there is an id and an estimate
//!   │ run
//!   ├─ prepare       ingest: segments, speech and timeline become blobs; or the manifest of an earlier run is read
//!   ├─ dispatch      the dispatcher runs the job over the farm, beside this machine's workers if there are any
//!   └─ finish        segments become the output under a temporary name, the lease is checked, the file is named
//!         ▼
//!   RenderReport     how the job ended, with its figures; `None` if it was interrupted
//! ```
//! On the way everything that happens is sent to an [`Observer`] as a [`RenderEvent`]. Nothing in here prints, reads
//! arguments or ends the process: that is `cli`'s part.

mod error;
mod estimate;
mod event;
mod farm;
mod finish;
mod job;
mod preflight;
mod report;
mod run;
mod settings;
mod weights;

pub use error::RenderError;
pub use estimate::Estimate;
pub use event::{Observer, RenderEvent};
pub use farm::FarmChoice;
pub use job::RenderJob;
pub use preflight::Preflight;
pub use report::{RenderReport, Written};
pub use settings::RenderSettings;
pub use weights::{WeightsInfo, WeightsProblem};
