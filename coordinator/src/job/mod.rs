//! The life of a job and of its chunks.
//!
//! ```text
//!            Released        Enqueued           Started
//!  Waiting ───────────▶ Backlog ──────▶ Queued ─────────▶ Running
//!     │                    ▲               │  ◀─────────     │
//!     │ Blocked            │   TakenBack   │   GivenBack     │
//!     ▼                    │   Failed, WorkerLost, QueueLost │
//!  Quarantined ◀───────────┴── (budget used up) ─────────────┤
//!     │                    ▲                                 │ DoneSeen (from any state)
//!     │ DoneSeen           │ Retracted                       ▼
//!     └────────────────────┼──────────────────────────────▶ Done
//!                          └─────────────────────────────────┘
//! ```
//! [`chunk::state::ChunkState::on`] is pure and total: it has no clock and no socket, late and repeated events are
//! ignored and impossible ones denied. `TakenBack` moves a queued chunk back, uncounted; `Blocked` gives a chunk of
//! the backlog up too. The dispatcher is the one task that owns the states, each in its
//! [`record::ChunkRecord`]. Truth is the manifest ([`store`]) and the done log; everything here can be rebuilt from
//! them.

pub mod attempt;
pub mod chunk;
pub mod chunks;
#[cfg(test)]
pub(crate) mod fixture;
pub mod folder;
pub mod record;
pub mod retry;
pub mod store;
