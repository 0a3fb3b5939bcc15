//! Where a render chunk may run, decided from what it needs, what it ran out of before, and what is there. Called
//! by the dispatcher whenever one of these has changed.
//!
//! ```text
//!  predictions ──▶ learned corrections ──▶ JobNeeds ─┐
//!  failures of this chunk ──▶ ChunkMemory ───────────┼─▶ options ──▶ solve ──▶ Placement (queue and plan, or wait)
//!  heartbeats ──▶ Machine (capacity) ────────────────┘                 ▲
//!  observed rates, chunks under way, --cpu-fallback ───────────────────┘
//! ```
//! All of it is pure. A chunk's class is the need of its leanest plan. The out-of-memory policy ([`ChunkMemory`])
//! first raises the chunk's plan floor, by plans that really need less; past the leanest plan its class rises
//! above what is known to be too little; a GPU that is too small for that leaves the CPU; and what fits nowhere
//! waits for a bigger node. Every step is upwards on a finite list.

mod needs;
mod oom_policy;
mod options;
mod solve;

pub use needs::{JobNeeds, gib};
pub use oom_policy::{ChunkMemory, Raised};
pub use options::{Fit, Machine, Options, Shortage, options};
pub use solve::{Candidate, CpuFallback, Load, Placement, solve};

#[cfg(test)]
mod tests;
