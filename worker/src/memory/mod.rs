//! What memory there is, on this machine and for this process, and what the networks need of it.

#[cfg(feature = "supervisor")]
pub mod choice;
#[cfg(feature = "supervisor")]
pub mod claims;
pub mod cost;
pub mod counting;
pub mod device;
pub mod drift;
pub mod fault;
pub mod guard;
pub mod host;
pub mod model;
pub mod plan;
#[cfg(feature = "supervisor")]
pub mod probe;
pub mod simulated;
pub mod walk;
#[cfg(feature = "supervisor")]
pub mod warn;
