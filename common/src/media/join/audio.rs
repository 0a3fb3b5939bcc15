//! Opens the audio track of the final file: decides whether it is copied or transcoded. Either way it runs
//! from time 0 to the end of the video.

use ffmpeg_next::codec::Id;

use super::copy::CopyFeed;
use super::request::{AudioTreatment, JoinRequest};
use super::source::{AudioFeed, AudioSource, TrackStart};
use super::transcode::TranscodeFeed;
use crate::media::MediaError;
use crate::media::container::Container;
use crate::time::FrameRate;

/// Opens the user's audio file and returns the packets for the final file, with what was done to them.
pub(super) fn open_audio(
    request: &JoinRequest<'_>,
) -> Result<(Box<dyn AudioFeed>, AudioTreatment), MediaError> {
    let source = AudioSource::open(request.audio)?;
    let start = source.measure_start()?;
    let end = |rate_hz: u32| samples_within(request.frames, request.rate, rate_hz);
    let source = AudioSource::open(request.audio)?;
    if let Some(reason) = reason_to_transcode(request, &source, &start) {
        let feed = TranscodeFeed::open(source, request.container, &end)?;
        return Ok((Box::new(feed), AudioTreatment::Transcoded { reason }));
    }
    let limit = end(source.rate_hz);
    let feed = CopyFeed::new(source, &start, limit, request.container);
    Ok((Box::new(feed), AudioTreatment::Copied))
}

/// Returns the number of audio samples in the duration of the video, rounded to the nearest.
pub(super) fn samples_within(frames: u64, rate: FrameRate, rate_hz: u32) -> i64 {
    let numerator = u128::from(frames) * u128::from(rate.den()) * u128::from(rate_hz);
    let denominator = u128::from(rate.num());
    i64::try_from((numerator + denominator / 2) / denominator).unwrap_or(i64::MAX)
}

/// Returns the reason why the audio has to be transcoded, or `None` if its packets can be copied.
fn reason_to_transcode(
    request: &JoinRequest<'_>,
    source: &AudioSource,
    start: &TrackStart,
) -> Option<String> {
    let (codec, container) = (source.parameters.id(), request.container.extension());
    if request.exact_audio {
        return Some("the audio is cut at the exact sample".to_owned());
    }
    if !can_carry(request.container, codec, source.rate_hz) {
        return Some(format!("{container} cannot carry {}", codec.name()));
    }
    if request.container == Container::Matroska && start.skip > 0 && codec != Id::OPUS {
        let name = codec.name();
        return Some(format!(
            "{container} cannot mark the {} samples that {name} needs cut from its start",
            start.skip
        ));
    }
    None
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
