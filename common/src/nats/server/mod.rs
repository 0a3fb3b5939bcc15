//! nats-server for a farm: a private one for a render on one machine, and the configuration of one that an operator runs
//! for a farm of several machines.

mod accounts;
mod config;
mod embedded;
mod error;
mod files;
mod locate;
mod process;
mod standing;

pub use embedded::{EmbeddedServer, ServerOptions};
pub use error::ServerError;
pub use locate::{BINARY_VARIABLE, LocateError, ServerBinary, check, locate};
pub use standing::StandingServer;
