//! Plans a job from its settings alone, without clock, network or files: its identity and its chunks.

pub mod identity;
pub mod split;
