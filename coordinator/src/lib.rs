//! The coordinator: cuts a job into chunks, hands them out over JetStream, follows faces over the whole video,
//! counts what comes back, and stitches it.

pub mod cli;
pub mod dispatch;
pub mod ingest;
pub mod job;
pub mod journal;
pub mod local;
pub mod placement;
pub mod plan;
pub mod render;
pub mod stitch;
pub mod track;
