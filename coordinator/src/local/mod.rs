//! This machine's part of a private farm: its devices, its server, its worker processes, and the file by which
//! `latentfarm top` finds them. `render` uses it unless it is given the URL of an existing farm.

mod devices;
mod error;
mod farm;
mod joins;
mod notice;
mod process;
mod server;
mod tools;
mod watch_file;
mod workers;

pub use devices::{DevicesError, LocalDevice, LocalDevices, PROBE_LIMIT};
pub use error::LocalFarmError;
pub use farm::LocalFarm;
pub use notice::LocalNotice;
pub(crate) use process::{signal_child, spawn_worker};
pub(crate) use server::SupervisedServer;
pub use tools::{ToolError, worker_program};
pub use watch_file::{WatchFile, WatchFileError};
pub use workers::WorkerOptions;
