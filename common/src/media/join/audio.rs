//! The audio track of the final file: copied or transcoded, from time 0 to the end of the video.

use ffmpeg_next::codec::{Id, Parameters};
use ffmpeg_next::{Packet, Rational};

use super::copy::CopyFeed;
use super::request::{AudioTreatment, JoinRequest};
use super::source::{AudioSource, Head};
use super::transcode::TranscodeFeed;
use crate::media::MediaError;
use crate::media::container::Container;
use crate::time::FrameRate;

/// Audio packets in presentation order; timestamps and durations in samples.
pub(super) struct AudioFeed {
    packets: Packets,
    treatment: AudioTreatment,
}

enum Packets {
    Copied(CopyFeed),
    Transcoded(Box<TranscodeFeed>),
}

impl AudioFeed {
    pub(super) fn open(request: &JoinRequest<'_>) -> Result<Self, MediaError> {
        let source = AudioSource::open(request.audio)?;
        let head = source.measure_head()?;
        let end = |rate_hz: u32| samples_within(request.frames, request.rate, rate_hz);
        let source = AudioSource::open(request.audio)?;
        if let Some(reason) = reason_to_transcode(request, &source, &head) {
            let feed = TranscodeFeed::open(source, request.container, &end)?;
            return Ok(Self {
                packets: Packets::Transcoded(Box::new(feed)),
                treatment: AudioTreatment::Transcoded { reason },
            });
        }
        let limit = end(source.rate_hz);
        Ok(Self {
            packets: Packets::Copied(CopyFeed::new(source, &head, limit, request.container)),
            treatment: AudioTreatment::Copied,
        })
    }

    pub(super) fn parameters(&self) -> Parameters {
        match &self.packets {
            Packets::Copied(feed) => feed.parameters(),
            Packets::Transcoded(feed) => feed.parameters(),
        }
    }

    /// Seconds per sample.
    pub(super) fn time_base(&self) -> Rational {
        match &self.packets {
            Packets::Copied(feed) => feed.time_base(),
            Packets::Transcoded(feed) => feed.time_base(),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Packet>, MediaError> {
        match &mut self.packets {
            Packets::Copied(feed) => feed.next(),
            Packets::Transcoded(feed) => feed.next(),
        }
    }

    pub(super) fn into_treatment(self) -> AudioTreatment {
        self.treatment
    }
}

/// Samples that fit into the video, to the nearest.
pub(super) fn samples_within(frames: u64, rate: FrameRate, rate_hz: u32) -> i64 {
    let numerator = u128::from(frames) * u128::from(rate.den()) * u128::from(rate_hz);
    let denominator = u128::from(rate.num());
    i64::try_from((numerator + denominator / 2) / denominator).unwrap_or(i64::MAX)
}

fn reason_to_transcode(request: &JoinRequest<'_>, source: &AudioSource, head: &Head) -> Option<String> {
    let (codec, container) = (source.parameters.id(), request.container.extension());
    if request.exact_audio {
        return Some("the audio is cut at the exact sample".to_owned());
    }
    if !can_carry(request.container, codec, source.rate_hz) {
        return Some(format!("{container} cannot carry {}", codec.name()));
    }
    if request.container == Container::Matroska && head.skip > 0 && codec != Id::OPUS {
        let name = codec.name();
        return Some(format!(
            "{container} cannot mark the {} samples that {name} needs cut from its start",
            head.skip
        ));
    }
    None
}

/// What players of the container can be expected to play.
fn can_carry(container: Container, codec: Id, rate_hz: u32) -> bool {
    match container {
        // Below 16 kHz MP3 is MPEG-2.5, which MP4 does not know.
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
