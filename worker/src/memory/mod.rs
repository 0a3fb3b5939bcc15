//! What memory there is, on this machine and for this process.

pub mod host;
