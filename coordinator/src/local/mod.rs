//! This machine's part of a private farm: its server, its worker processes, and how others may watch them. It is used
//! by `render`, and only if the render is not given somebody's farm.

mod error;
mod farm;
mod notice;
mod server;
mod tools;
mod watch_file;
mod workers;

pub use error::FarmError;
pub use farm::{CONNECT_PATIENCE, LocalFarm};
pub use notice::LocalNotice;
pub use tools::{ToolError, worker_program};
pub use watch_file::{WatchFile, WatchFileError};
pub use workers::WorkerOptions;
