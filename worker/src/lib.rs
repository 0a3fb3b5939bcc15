//! The worker of a render farm: a supervisor that pulls tasks from NATS, and the children that it runs over
//! pipes.
//!
//! | process | crate and modules | links |
//! |---|---|---|
//! | supervisor (`latentfarm-worker run`) | `supervise`, `consume`, `machine` | NATS, NVML |
//! | media child (`latentfarm-worker media`) | `media`; the crate `latentfarm-face` | FFmpeg |
//! | engine (`latentfarm-engine`) | the crates `latentfarm-engine` and `latentsync` | candle alone, CPU or CUDA |
//!
//! The crates of the second and third row use neither NATS nor FFmpeg.

pub mod cli;
pub mod consume;
pub mod machine;
pub mod media;
pub mod supervise;
