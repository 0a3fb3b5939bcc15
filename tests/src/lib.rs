//! Runs the real programs as a user does, for the tests in `tests/`: `latentfarm render` with its private
//! nats-server, workers, media children and engines, on a real clip.

#![expect(
    clippy::missing_panics_doc,
    reason = "a test harness panics where the test fails"
)]

mod access;
mod cards;
mod clips;
mod coordinator;
mod farm;
mod gpus;
mod processes;
mod render;
mod restrict;
mod stage;
mod sync;

pub use access::{Access, Answer};
pub use cards::Card;
pub use clips::{Clips, Material, decoded, repeat, tiny_weights, tiny_weights_as, transcode, zeroed};
pub use coordinator::Coordinator;
pub use farm::{Server, Worker, installed_server};
pub use gpus::StandInGpu;
pub use processes::{ProcessTag, eventually, wait_until};
pub use render::{Finished, Render, Running, program};
pub use restrict::{SmallDisk, as_plain_user, fill_disk, namespace_holder, skip, unshared};
pub use stage::{OPTIONS, Stage};
pub use sync::{measured, sync};
