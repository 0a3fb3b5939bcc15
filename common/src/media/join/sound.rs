//! The packets of the final file's sound.

use ffmpeg_next::codec::Parameters;
use ffmpeg_next::{Packet, Rational};

use super::request::JoinRequest;
use crate::media::MediaError;
use crate::media::sound::{AudioSource, CopiedTrack, PacketCopier, samples_within};

/// Reads the file that ingest made. Time stamps and durations are in samples.
pub(super) struct SoundFeed {
    source: AudioSource,
    copier: PacketCopier,
}

impl SoundFeed {
    pub(super) fn open(request: &JoinRequest<'_>) -> Result<Self, MediaError> {
        let start = AudioSource::open(request.sound)?.measure_start()?;
        let source = AudioSource::open(request.sound)?;
        let track = CopiedTrack {
            parameters: source.parameters.clone(),
            time_base: source.time_base,
            rate_hz: source.rate_hz,
            start,
        };
        let limit = samples_within(request.frames, request.rate, source.rate_hz);
        let copier = PacketCopier::new(track, limit, request.container);
        Ok(Self { source, copier })
    }

    /// Returns the codec parameters for the muxer.
    pub(super) fn parameters(&self) -> Parameters {
        self.copier.parameters()
    }

    /// Returns the duration of a sample in seconds.
    pub(super) fn time_base(&self) -> Rational {
        self.copier.time_base()
    }

    /// Returns the next packet, or `None` at the end of the sound or the video.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, MediaError> {
        let packet = self.source.next_packet()?;
        Ok(packet.and_then(|packet| self.copier.copy(&packet)))
    }
}
