//! Runs the real programs as a user would: `latentfarm render` with its private nats-server, workers, media
//! children and engines, on a real clip.

#![expect(
    clippy::missing_panics_doc,
    reason = "a test harness panics where the test fails"
)]

mod cards;
mod clips;
mod farm;
mod processes;
mod render;

pub use cards::Card;
pub use clips::{Clips, Material, cut, decoded, repeat, tiny_weights, tiny_weights_as};
pub use farm::{Server, Worker};
pub use processes::Tag;
pub use render::{Finished, Render, Running, program};
