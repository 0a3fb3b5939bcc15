//! The farm over NATS JetStream: subjects, queues, streams, the done log, the coordinator's lease, and a private
//! server for renders on one machine.
//!
//! Tasks are hints and may be lost or doubled; the done log is the truth. See [`topology`] for what is stored
//! where, [`subjects`] for how it is named, [`done`] for how a chunk becomes done.

pub mod ack;
pub mod connect;
pub mod direct;
pub mod done;
pub mod events;
pub mod lease;
pub mod pull;
mod role;
pub mod server;
pub mod subjects;
pub mod tasks;
pub mod topology;
mod version;

pub use connect::{ConnectError, Connection, Identity, Patience, connect};
pub use role::{Permissions, Role};
pub use version::ServerVersion;
