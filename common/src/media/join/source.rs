//! The user's audio track, read packet by packet, and the interface of what is made of it.

use std::path::Path;

use ffmpeg_next::codec::Parameters;
use ffmpeg_next::format::context;
use ffmpeg_next::{Error, Packet, Rational, Rescale, decoder, frame};

use crate::media::MediaError;
use crate::media::container;
use crate::media::probe::audio_track;

/// The audio packets of the final file in presentation order. Timestamps and durations are in samples.
pub(super) trait AudioFeed {
    /// Returns the codec parameters for the muxer.
    fn parameters(&self) -> Parameters;

    /// Returns the duration of a sample in seconds.
    fn time_base(&self) -> Rational;

    /// Returns the next packet, or `None` at the end.
    fn next(&mut self) -> Result<Option<Packet>, MediaError>;
}

/// The best audio track of a file, read from its first packet.
pub(super) struct AudioSource {
    pub(super) path: std::path::PathBuf,
    input: context::Input,
    track: usize,
    pub(super) time_base: Rational,
    pub(super) parameters: Parameters,
    pub(super) rate_hz: u32,
}

/// The place in a track where its presented samples begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrackStart {
    /// Timestamp of the first packet, in ticks of the track's time base.
    pub(super) first_pts: i64,
    /// Number of samples from the first packet's start to the first presented sample.
    pub(super) skip: i64,
}

/// The first decoded samples of a track, and the packets that they took.
pub(super) struct FirstSamples {
    pub(super) samples: frame::Audio,
    /// Timestamp of the first packet, in ticks of the track's time base.
    pub(super) packet_pts: Option<i64>,
    /// Total duration of the packets, in ticks of the track's time base.
    pub(super) consumed: i64,
}

/// Returns the duration of a sample in seconds.
pub(super) fn sample_base(rate_hz: u32) -> Rational {
    Rational(1, i32::try_from(rate_hz).unwrap_or(i32::MAX))
}

impl AudioSource {
    pub(super) fn open(path: &Path) -> Result<Self, MediaError> {
        let input = container::open_input(path)?;
        let (track, time_base, parameters) = {
            let stream = audio_track(&input, path)?;
            let parameters = container::portable_parameters(&stream.parameters(), None);
            (stream.index(), stream.time_base(), parameters)
        };
        let mut source = Self {
            path: path.to_owned(),
            input,
            track,
            time_base,
            parameters,
            rate_hz: 0,
        };
        source.rate_hz = source.decoder()?.rate();
        if source.rate_hz == 0 {
            return Err(MediaError::bad_input(
                path,
                "its audio track states no sample rate",
            ));
        }
        Ok(source)
    }

    pub(super) fn decoder(&self) -> Result<decoder::Audio, MediaError> {
        container::audio_decoder(self.parameters.clone(), self.time_base, &self.path)
    }

    /// Returns the duration of a sample in seconds.
    pub(super) fn sample_base(&self) -> Rational {
        sample_base(self.rate_hz)
    }

    /// Reads the next packet of the track that is not empty.
    pub(super) fn next_packet(&mut self) -> Result<Option<Packet>, MediaError> {
        loop {
            match container::read_packet_of(self.track, &mut self.input, &self.path)? {
                Some(packet) if packet.size() == 0 => {}
                packet => return Ok(packet),
            }
        }
    }

    /// Decodes packets until the decoder returns samples.
    pub(super) fn decode_first(&mut self, decoder: &mut decoder::Audio) -> Result<FirstSamples, MediaError> {
        let mut first = FirstSamples {
            samples: frame::Audio::empty(),
            packet_pts: None,
            consumed: 0,
        };
        while let Some(packet) = self.next_packet()? {
            first.packet_pts = first.packet_pts.or(packet.pts());
            first.consumed += packet.duration();
            match decoder.send_packet(&packet) {
                Ok(()) | Err(Error::InvalidData) => {}
                Err(error) => return Err(MediaError::ffmpeg("decode the audio of", &self.path)(error)),
            }
            if decoder.receive_frame(&mut first.samples).is_ok() {
                return Ok(first);
            }
        }
        Err(MediaError::bad_input(
            &self.path,
            "no sound could be decoded from its audio track",
        ))
    }

    /// Decodes up to the first presented sample. This is necessary because only the decoder finds all the
    /// samples that are dropped before it.
    pub(super) fn measure_start(mut self) -> Result<TrackStart, MediaError> {
        let mut decoder = self.decoder()?;
        let FirstSamples {
            samples,
            packet_pts,
            consumed,
        } = self.decode_first(&mut decoder)?;
        let first_pts = packet_pts.unwrap_or(0);
        let by_clock = samples.pts().map_or(0, |pts| {
            (pts - first_pts).rescale(self.time_base, self.sample_base())
        });
        // If the clock is coarse, the samples that went in less those that came out are exact.
        let by_count = consumed.rescale(self.time_base, self.sample_base())
            - i64::try_from(samples.samples()).unwrap_or(i64::MAX);
        let tick = 1 + 1_i64.rescale(self.time_base, self.sample_base());
        let skip = if (by_clock - by_count).abs() <= tick {
            by_count
        } else {
            by_clock
        };
        Ok(TrackStart {
            first_pts,
            skip: skip.max(0),
        })
    }
}
