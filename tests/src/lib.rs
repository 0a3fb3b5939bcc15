//! Runs the real programs as a user would: `latentfarm render` with its private nats-server, workers, media
//! children and engines, on a real clip.

#![expect(
    clippy::missing_panics_doc,
    reason = "a test harness panics where the test fails"
)]

mod clips;
mod processes;
mod render;

pub use clips::{Clips, Material, cut, decoded, tiny_weights};
pub use processes::Tag;
pub use render::{Finished, Render, Running, program};
