//! Placement decides which queue and memory plans each render chunk may use, from what the chunk needs, what
//! it ran out of before, and what the live workers offer. The dispatcher calls it whenever one of these has
//! changed.
//!
//! ```text
//!  predictions ──▶ learned corrections ──▶ JobNeeds ─┐
//!  failures of this chunk ──▶ ChunkMemory ───────────┼─▶ options ──▶ solve ──▶ Placement (queue and plan, or wait)
//!  heartbeats ──▶ WorkerCapacity ────────────────────┘                 ▲
//!  observed rates, chunks under way, --cpu-fallback ───────────────────┘
//! ```
//! All of it is pure: there is no clock and no socket. A chunk's resource class is the smallest that holds
//! the need of its leanest memory plan. When a chunk runs out of memory, the out-of-memory policy
//! ([`ChunkMemory`]) first raises its plan floor to the next plan that needs less. Past the leanest plan it
//! raises the chunk's class above what is known to be too little. If no GPU is large enough for that class,
//! the CPU is left; a chunk that fits no worker at all waits for a bigger one. Every step goes upwards on a
//! finite list, so no chunk runs out of memory forever.

mod needs;
mod oom_policy;
mod options;
mod policy;
mod solve;

pub use needs::{JobNeeds, gib};
pub use oom_policy::{ChunkMemory, OomDecision};
pub use options::{Fit, Largest, Options, Shortage, WorkerCapacity, options};
pub use policy::{CpuFallback, OneKind};
pub use solve::{Candidate, Load, Placement, solve};

#[cfg(test)]
mod tests;
