//! What a job consists of, worked out from its settings alone: no clock, no network, no files.

pub mod identity;
pub mod split;
