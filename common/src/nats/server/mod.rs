//! This starts and configures nats-server for a farm: a private one, which the coordinator starts for a
//! render on one machine, and the configuration of a standalone one, which an operator runs for a farm of
//! several machines.

mod config;
mod embedded;
mod error;
mod files;
mod folder;
mod locate;
mod process;
mod standalone;
mod tls;
mod users;

pub use config::Cluster;
pub use embedded::{EmbeddedServer, Network, ServerOptions};
pub use error::ServerError;
pub use folder::ServerFolder;
pub use locate::{BINARY_VARIABLE, LocateError, ServerBinary, check, locate};
pub use standalone::{Encryption, StandaloneOptions, StandaloneServer};
