//! Everything that uses FFmpeg. The coordinator probes, indexes and cuts the inputs ([`probe_video`],
//! [`index_video`], [`cut_segments`], [`decode_sound`]), joins the encoded segments and verifies the result
//! ([`join`], [`verify_output`]). The worker's media child decodes source frames and encodes segments
//! ([`FrameReader`], [`SegmentEncoder`]). All functions block and must not be called on the async runtime.

mod check;
mod container;
mod cut;
mod decode;
mod encode;
mod error;
mod ffi;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod index;
mod inspect;
mod join;
mod look;
mod mux;
mod nal;
mod packets;
mod pieces;
mod probe;
mod reader;
mod reencode;
mod remedy;
mod restore;
mod scanner;
mod segment;
mod sound;
#[cfg(test)]
mod test_clips;
mod verify;

pub use container::Container;
pub use cut::cut_segments;
pub use encode::SegmentEncoder;
pub use error::{BadMedia, MediaError};
pub use index::{VideoIndex, index_video};
pub use join::{JoinRequest, join};
pub use pieces::CutLimits;
pub use probe::{VideoCodec, VideoProbe, init, probe_video};
pub use reader::FrameReader;
pub use segment::SegmentFile;
pub use sound::{
    AudioOffset, AudioTreatment, InvalidOffset, SPEECH_RATE_HZ, Sound, SoundOrigin, SoundRequest,
    TrackChoice, decode_sound,
};
pub use verify::{
    AudioLength, FinalReport, SegmentInfo, compare_first_pictures, decode_hashes, verify_output,
    verify_pictures, verify_segment,
};
