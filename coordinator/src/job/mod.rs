//! The life of a job and of its chunks.
//!
//! ```text
//!            Released        Enqueued           Started
//!  Waiting ───────────▶ Backlog ──────▶ Queued ─────────▶ Running
//!     │                    ▲               │  ◀─────────     │
//!     │ Blocked            │   Reassigned  │   Returned      │
//!     ▼                    │   Failed, WorkerLost, QueueLost │
//!  Quarantined             └─────────────────────────────────┤
//!     │                    ▲      Forged                     │ DoneSeen (from any state)
//!     │ DoneSeen           │ Retracted                       ▼
//!     └────────────────────┼──────────────────────────────▶ Done
//!                          └─────────────────────────────────┘
//! ```
//! [`chunk::state::ChunkState::on`] is pure and total: it has no clock and no socket. It ignores late and
//! repeated events, and denies impossible ones. `Reassigned` moves a queued chunk back to the backlog, which
//! counts as no attempt; `Blocked` quarantines a chunk of the backlog too, if it has failed on enough workers
//! ([`failures`]) or has waited too long for memory. The dispatcher is the one task
//! that owns the states, each in its [`record::ChunkRecord`]. The manifest ([`manifest`]), the records of the
//! video's segments ([`segment_log`]) and the done log are the truth; everything else here can be rebuilt
//! from them.

pub mod chunk;
pub mod chunks;
pub mod failures;
pub mod folder;
pub(crate) mod frame_hashes;
pub mod holders;
pub mod manifest;
pub mod record;
pub mod refusals;
pub mod retry;
pub mod segment_log;
pub mod segments;
#[cfg(test)]
pub(crate) mod test_support;
pub mod tries;
