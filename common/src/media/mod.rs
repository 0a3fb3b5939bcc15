//! Everything that uses FFmpeg. The coordinator probes, indexes and cuts the inputs ([`probe_video`],
//! [`index_video`], [`cut_segments`], [`decode_speech`]), joins the encoded segments and verifies the result
//! ([`join`], [`verify_output`]). The worker's media child decodes source frames and encodes segments
//! ([`FrameReader`], [`SegmentEncoder`]). All functions block and must not be called on the async runtime.

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
mod reencode;
mod segment;
mod speech;
#[cfg(test)]
mod test_clips;
mod verify;

pub use container::Container;
pub use cut::cut_segments;
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
