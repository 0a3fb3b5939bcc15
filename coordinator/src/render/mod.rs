//! One render, from two input files to one verified output file. `latentfarm render` runs one with
//! [`RenderJob::run`] on a private farm. The parts of it that a job of an existing farm needs too are used by
//! [`crate::farm`]: the checks, the store of the inputs, the cut of the video, and the join of the output.
//!
//! ```text
//! RenderJob::check   checks inputs, weights and disk; writes nothing; computes the job's id and an estimate
//!   │ run
//!   ├─ prepare       ingests sound, speech and timeline into blobs, or reads the manifest of an earlier run
//!   ├─ dispatch      runs the dispatcher on the farm, with this machine's workers, and cuts the video beside it
//!   └─ finish        joins the segments under a temporary name, checks the lease, renames the file
//!         ▼
//!   RenderReport     how the job ended, with its figures; `None` if it was interrupted
//! ```
//! Everything that happens is sent to an [`Observer`] as a [`RenderEvent`]. This module does not print, read
//! arguments or end the process; `cli` does.

mod cut;
mod error;
mod estimate;
mod event;
mod farm;
mod finish;
mod inputs;
mod job;
mod join;
mod preflight;
mod report;
mod room;
mod run;
mod settings;
mod store_sink;
mod weights;

pub(crate) use cut::VideoCut;
pub use error::RenderError;
pub use estimate::Estimate;
pub use event::{Observer, RenderEvent};
pub use farm::PrivateFarm;
pub(crate) use inputs::StoredInputs;
pub use job::RenderJob;
pub(crate) use join::Join;
pub use preflight::Preflight;
pub use report::{RenderReport, Written};
pub use room::NoRoom;
pub(crate) use room::{NoStorage, Volume};
pub use settings::{RenderSettings, StepsChoice, WorkFolder};
pub use weights::{WeightsError, WeightsInfo, demo_folder};
