//! The worker of a render farm: a supervisor that pulls tasks from NATS, and the children that it runs over
//! pipes.
//!
//! | process | crate and modules | links |
//! |---|---|---|
//! | supervisor (`latentfarm-worker run`) | `supervise`, `consume`, `machine` | NATS, NVML |
//! | media child (`latentfarm-worker media`) | `media`, `face` | FFmpeg |
//! | engine (`latentfarm-engine`) | the crates `latentfarm-engine` and `latentsync` | candle alone, CPU or CUDA |
//!
//! `face` uses neither NATS nor FFmpeg.

pub mod cli;
pub mod consume;
pub mod face;
pub mod machine;
pub mod media;
pub mod supervise;
