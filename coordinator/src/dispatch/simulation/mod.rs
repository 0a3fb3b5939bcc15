//! Model checking of the decisions: the dispatcher of the product runs on a simulated farm, in virtual time, under faults that
//! a seed chooses, and after each step it is checked what must always hold.
//!
//! ```text
//!  run ─▶ faults ─▶ coordinators ─▶ Dispatcher (the product) ─▶ SimulatedLink ─┐
//!            │                                                                 ├─▶ World: task queue, done log, lease
//!            └────▶ workers ───────────────────────────────────────────────────┘
//! ```
//! Everything of a run is on one thread, under a paused clock, and draws from one generator: a seed is the same run each
//! time. `LATENTFARM_SIMULATION_SEEDS=100000` runs so many seeds in place of 500; `LATENTFARM_SIMULATION_FIRST` is the first of them;
//! `LATENTFARM_SIMULATION_SEED=1234` runs one, and prints what happened in it with the virtual times.

mod check;
mod coordinator;
mod faults;
mod gate;
mod jobs;
mod lease;
mod link;
mod machine;
mod outcome;
pub(super) mod random;
mod rates;
mod recorder;
mod records;
mod run;
mod task_queue;
mod tests;
mod worker;
mod world;
