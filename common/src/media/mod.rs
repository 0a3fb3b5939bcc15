//! Everything that touches FFmpeg: probing, cutting, decoding by exact PTS, encoding closed-GOP segments,
//! joining them, and the audio track. Blocking; never called on the async runtime.

mod container;
mod cut;
mod decode;
mod encode;
mod error;
mod ffi;
mod index;
mod join;
mod nal;
mod packets;
mod pieces;
mod probe;
mod reader;
mod recode;
#[cfg(test)]
mod samples;
mod segment;
mod speech;
mod verify;

pub use container::Container;
pub use cut::{CutVideo, cut_segments, cut_video};
pub use encode::SegmentEncoder;
pub use error::{BadMedia, MediaError};
pub use index::{VideoIndex, index_video};
pub use join::{AudioTreatment, JoinRequest, join};
pub use pieces::CutLimits;
pub use probe::{AudioProbe, VideoCodec, VideoProbe, init, probe_audio, probe_video};
pub use reader::FrameReader;
pub use segment::SegmentFile;
pub use speech::{SPEECH_RATE_HZ, decode_speech};
pub use verify::{AudioLength, FinalReport, SegmentInfo, decode_hashes, verify_output, verify_segment};
