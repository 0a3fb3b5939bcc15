//! The audio track of the file that ingest made, read packet by packet for the join.

use std::path::Path;

use ffmpeg_next::codec::Parameters;
use ffmpeg_next::format::context;
use ffmpeg_next::{Error, Packet, Rational, Rescale, decoder, frame};

use crate::media::container;
use crate::media::probe::audio_track;
use crate::media::{MediaError, ffi};

/// The best audio track of a file, read from its first packet.
pub(in crate::media) struct AudioSource {
    pub(in crate::media) path: std::path::PathBuf,
    input: context::Input,
    track: usize,
    pub(in crate::media) time_base: Rational,
    pub(in crate::media) parameters: Parameters,
    pub(in crate::media) rate_hz: u32,
}

/// The place in a track where its presented samples begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::media) struct TrackStart {
    /// Timestamp of the first packet, in ticks of the track's time base.
    pub(in crate::media) first_pts: i64,
    /// Number of samples from the first packet's start to the first presented sample.
    pub(in crate::media) skip: i64,
}

impl TrackStart {
    /// Finds the start from the first decoded samples. `first_pts` is the time stamp of the first packet, and `consumed` the
    /// duration of the packets that the decoder took for the samples.
    pub(in crate::media) fn measure(
        first_pts: i64,
        consumed: i64,
        samples: &frame::Audio,
        time_base: Rational,
        rate_hz: u32,
    ) -> Self {
        let base = sample_base(rate_hz);
        let by_clock = samples
            .pts()
            .map_or(0, |pts| (pts - first_pts).rescale(time_base, base));
        // If the clock is coarse, the samples that went in less those that came out are exact.
        let by_count =
            consumed.rescale(time_base, base) - i64::try_from(samples.samples()).unwrap_or(i64::MAX);
        let tick = 1 + 1_i64.rescale(time_base, base);
        let skip = if (by_clock - by_count).abs() <= tick {
            by_count
        } else {
            by_clock
        };
        Self {
            first_pts,
            skip: skip.max(0),
        }
    }
}

/// The first decoded samples of a track, and the packets that they took.
pub(in crate::media) struct FirstSamples {
    pub(in crate::media) samples: frame::Audio,
    /// Timestamp of the first packet, in ticks of the track's time base.
    pub(in crate::media) packet_pts: Option<i64>,
    /// Total duration of the packets, in ticks of the track's time base.
    pub(in crate::media) consumed: i64,
}

/// Returns the duration of a sample in seconds.
pub(in crate::media) fn sample_base(rate_hz: u32) -> Rational {
    Rational(1, i32::try_from(rate_hz).unwrap_or(i32::MAX))
}

impl AudioSource {
    pub(in crate::media) fn open(path: &Path) -> Result<Self, MediaError> {
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

    pub(in crate::media) fn decoder(&self) -> Result<decoder::Audio, MediaError> {
        container::audio_decoder(self.parameters.clone(), self.time_base, &self.path)
    }

    /// Reads the next packet of the track that is not empty.
    pub(in crate::media) fn next_packet(&mut self) -> Result<Option<Packet>, MediaError> {
        loop {
            match container::read_packet_of(self.track, &mut self.input, &self.path)? {
                Some(packet) if packet.size() == 0 => {}
                packet => return Ok(packet),
            }
        }
    }

    /// Decodes packets until the decoder returns samples.
    pub(in crate::media) fn decode_first(
        &mut self,
        decoder: &mut decoder::Audio,
    ) -> Result<FirstSamples, MediaError> {
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
    pub(in crate::media) fn measure_start(mut self) -> Result<TrackStart, MediaError> {
        let mut decoder = self.decoder()?;
        let FirstSamples {
            samples,
            packet_pts,
            consumed,
        } = self.decode_first(&mut decoder)?;
        let first_pts = packet_pts.unwrap_or(0);
        Ok(TrackStart::measure(
            first_pts,
            consumed,
            &samples,
            self.time_base,
            self.rate_hz,
        ))
    }
}

/// Returns the number of samples of a frame that are presented if it is the last. In MP4 the last packet's duration
/// excludes the encoder's padding.
pub(super) fn presented(samples: &frame::Audio, time_base: Rational) -> u64 {
    let whole = samples.samples() as u64;
    let counts_samples = time_base.0 == 1 && u32::try_from(time_base.1) == Ok(samples.rate());
    match u64::try_from(ffi::duration_of(samples)) {
        Ok(duration @ 1..) if counts_samples => duration.min(whole),
        _ => whole,
    }
}
