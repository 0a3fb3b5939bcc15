//! The farm over NATS JetStream: subjects, queues, streams, the done log, the coordinator's lease, and a
//! private server for renders on one machine. The coordinator and the workers talk to each other through this
//! module alone.
//!
//! Tasks are hints and may be lost or doubled; the done log is the truth. [`topology`] describes what is
//! stored, [`subjects`] how it is named, and [`done`] how a chunk becomes done.

pub mod ack;
pub mod connect;
pub mod direct;
pub mod done;
pub mod epochs;
mod error;
pub mod events;
mod full;
pub mod heartbeats;
pub mod identity;
pub mod join;
pub mod lease;
mod link;
pub mod pull;
pub mod records;
mod role;
pub mod schema;
pub mod server;
pub mod shared_weights;
pub mod signature;
pub mod storage;
pub mod subjects;
pub mod tasks;
pub mod topology;
mod version;

pub use connect::{ConnectError, Connection, connect};
pub use error::StreamError;
pub use identity::Identity;
pub use link::Outage;
pub use role::{Permissions, Role};
pub use version::ServerVersion;
