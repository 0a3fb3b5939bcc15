//! Turns the two input files into the data that a job is planned from: source segments, frame table, audio
//! windows.
//!
//! [`examine`] reads both files and stores nothing but a scratch copy of the speech. That is enough for an
//! estimate: `render` calls it in its checks, before any work starts. [`ExaminedInputs::store`] then puts
//! speech and sound into the blob store: `render` calls it when the farm is connected, unless an earlier run
//! has done so. With that the job is planned, and chunks are rendered while [`SourceVideo::cut`] cuts the
//! video, decodes every segment once, and replaces damaged ones. It is far faster than rendering, so that
//! what is wrong with the video is known early. Memory use does not grow with the length of the input except
//! for the frame table, and the scratch disk holds a few segments at a time. All functions block.

#[cfg(test)]
mod cut_tests;
pub mod defects;
mod error;
mod inputs;
mod request;
mod sink;
mod speech;
#[cfg(test)]
mod tests;
pub mod timeline;
mod trial;
mod video;
mod watched;

pub use error::IngestError;
pub use inputs::{ExaminedInputs, Ingested, examine};
pub use request::{IngestRequest, RateChoice, SEGMENT_LIMITS};
pub use sink::BlobSink;
pub use timeline::OnShort;
pub use video::SourceVideo;
