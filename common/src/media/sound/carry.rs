//! What a container can carry, and so whether the packets of a track can be copied into it.

use std::fmt;

use ffmpeg_next::codec::Id;

use crate::media::MediaError;
use crate::media::container::Container;
use crate::time::FrameRate;

/// What was done to the sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioTreatment {
    /// The packets of the track were copied.
    Copied,
    /// The track was decoded and encoded again.
    Transcoded {
        /// The reason why its packets could not be copied.
        reason: String,
    },
}

impl fmt::Display for AudioTreatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copied => f.write_str("copied"),
            Self::Transcoded { reason } => write!(f, "transcoded: {reason}"),
        }
    }
}

/// Returns the number of audio samples in the duration of the video, rounded to the nearest.
pub(in crate::media) fn samples_within(frames: u64, rate: FrameRate, rate_hz: u32) -> i64 {
    let numerator = u128::from(frames) * u128::from(rate.den()) * u128::from(rate_hz);
    let denominator = u128::from(rate.num());
    i64::try_from((numerator + denominator / 2) / denominator).unwrap_or(i64::MAX)
}

/// Returns the reason why sound of this codec has to be encoded again, or `None` if its packets can be copied. `skip` is
/// the number of samples that a decoder has to drop at the start.
pub(super) fn reason_to_encode(container: Container, codec: Id, rate_hz: u32, skip: i64) -> Option<String> {
    let name = container.extension();
    if !can_carry(container, codec, rate_hz) {
        return Some(format!("{name} cannot carry {}", codec.name()));
    }
    (container == Container::Matroska && skip > 0 && codec != Id::OPUS).then(|| {
        let codec = codec.name();
        format!("{name} cannot mark the {skip} samples that {codec} needs cut from its start")
    })
}

/// The reason to encode sound whose packets the muxer refused.
pub(super) fn not_taken(container: Container, error: &MediaError) -> String {
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(" ({cause})"));
    format!("{} does not take its packets{cause}", container.extension())
}

/// Whether players of the container can be expected to play the codec.
fn can_carry(container: Container, codec: Id, rate_hz: u32) -> bool {
    match container {
        // Below 16 kHz MP3 is MPEG-2.5, which MP4 does not define.
        Container::Mp4 if codec == Id::MP3 => rate_hz >= 16_000,
        Container::Mp4 => matches!(
            codec,
            Id::AAC | Id::AC3 | Id::EAC3 | Id::ALAC | Id::OPUS | Id::FLAC
        ),
        Container::Matroska => matches!(
            codec,
            Id::AAC
                | Id::MP2
                | Id::MP3
                | Id::AC3
                | Id::EAC3
                | Id::DTS
                | Id::ALAC
                | Id::OPUS
                | Id::VORBIS
                | Id::FLAC
                | Id::PCM_U8
                | Id::PCM_S16LE
                | Id::PCM_S24LE
                | Id::PCM_S32LE
                | Id::PCM_F32LE
        ),
    }
}
