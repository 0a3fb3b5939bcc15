//! A whole farm on this machine: the job folder, the weights' description, and worker processes.

mod estimate;
mod folder;
mod notice;
mod server;
mod tools;
mod watch_file;
mod weights;
mod workers;

pub use estimate::{Estimate, EstimateInput};
pub use folder::{FolderError, JobFolder};
pub use notice::LocalNotice;
pub use server::KeptServer;
pub use tools::{ToolError, worker_program};
pub use watch_file::{WatchFile, WatchFileError, job_folder_of};
pub use weights::{WeightsInfo, WeightsProblem};
pub use workers::{LocalWorkers, WorkerPlan, WorkerSeat};
