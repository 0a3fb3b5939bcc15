//! Turns the two input files into what a job is planned from: source segments, frame table, audio windows.
//!
//! [`examine`] looks at everything and stores nothing but a scratch copy of the speech: enough for an estimate.
//! [`Examined::store`] then cuts the video and puts all into the blob store. Memory is constant in the length of the
//! input but for the frame table, and the scratch disk holds one segment at a time. Blocking.

mod error;
mod examined;
mod request;
mod sink;
mod speech;
#[cfg(test)]
mod tests;
pub mod timeline;

pub use error::IngestError;
pub use examined::{Examined, Ingested, examine};
pub use request::{IngestProgress, IngestRequest, IngestStage, RateChoice, SEGMENT_LIMITS};
pub use sink::BlobSink;
pub use timeline::OnShort;
