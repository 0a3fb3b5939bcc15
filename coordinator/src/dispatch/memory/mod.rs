//! Where a render chunk may run, decided from what it needs, what it ran out of before, and what is there.
//!
//! ```text
//!  predictions ──▶ learned corrections ──▶ JobNeeds ─┐
//!  failures of this chunk ──▶ ChunkMemory ───────────┼─▶ options ──▶ solve ──▶ Placement (lane and plan, or wait)
//!  heartbeats ──▶ Machine (reach) ───────────────────┘                 ▲
//!  observed rates, chunks under way, --cpu-fallback ───────────────────┘
//! ```
//! All of it is pure but [`learned`]. A chunk's class is the need of its leanest plan. Running out of memory
//! first raises the chunk's plan floor, by rungs that really need less; past the leanest plan its class rises
//! above what is known to be too little; a GPU that is too small for that leaves the CPU; and what fits nowhere
//! waits for a bigger node. Every step is upwards on a finite ladder.

mod history;
pub mod learned;
mod needs;
mod place;
mod share;
mod usage;

pub use history::{ChunkMemory, Oom, Raised};
pub use needs::JobNeeds;
pub use place::{Fit, Machine, Options, Shortage, options};
pub use share::{Candidate, CpuFallback, Load, Placement, solve};
pub use usage::{MemoryUsage, Place, PlanUse, deviation};

#[cfg(test)]
mod tests;

/// MiB as people read it: `3.9 GiB`, or `640 MiB` below one.
pub fn gib(mib: u64) -> String {
    if mib < 1024 {
        return format!("{mib} MiB");
    }
    format!("{:.1} GiB", mib as f64 / 1024.0)
}
