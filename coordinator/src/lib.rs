//! The coordinator of a render farm. It splits a job into chunks, publishes them as tasks over JetStream,
//! follows the speaker's face over the whole video, verifies and counts the results, and joins them into the
//! output file. `main.rs` calls [`cli::main`]; everything else is called from there.

pub mod cli;
pub mod dispatch;
pub mod farm;
pub mod ingest;
pub mod job;
pub mod journal;
pub mod local;
pub mod placement;
pub mod plan;
pub mod render;
pub mod segment_check;
pub mod stitch;
pub mod sync;
pub mod track;
