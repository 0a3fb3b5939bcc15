//! Copies audio packets, moved so that the first presented sample is at time 0 and cut at the end of the
//! video.

use ffmpeg_next::codec::{Id, Parameters, packet};
use ffmpeg_next::{Packet, Rational, Rescale};

use super::source::{AudioFeed, AudioSource, TrackStart};
use crate::media::MediaError;
use crate::media::container::{self, Container};

/// Copies the packets of the user's audio file.
pub(super) struct CopyFeed {
    source: AudioSource,
    track_start: TrackStart,
    /// End of the video, in audio samples.
    limit: i64,
    container: Container,
    /// Number of samples that Matroska players subtract from every timestamp (it has this for Opus only).
    codec_delay: i64,
    grid: SampleGrid,
    ended: bool,
}

impl CopyFeed {
    pub(super) fn new(
        source: AudioSource,
        track_start: &TrackStart,
        limit: i64,
        container: Container,
    ) -> Self {
        // A timestamp has an error of up to half a tick, the difference of two of up to one tick.
        let tick = 1_i64.rescale(source.time_base, source.sample_base());
        let opus_in_matroska = container == Container::Matroska && source.parameters.id() == Id::OPUS;
        Self {
            source,
            track_start: *track_start,
            limit,
            container,
            codec_delay: if opus_in_matroska { track_start.skip } else { 0 },
            grid: SampleGrid { tick, previous: None },
            ended: false,
        }
    }

    fn packet(&self, source: &Packet, start: i64, presented: i64, decoded: i64) -> Packet {
        // The copy has no side data, because the source's side data refers to the source's timeline.
        let mut copy = Packet::copy(source.data().unwrap_or_default());
        copy.set_flags(packet::Flags::KEY);
        copy.set_pts(Some(start + self.codec_delay));
        copy.set_dts(Some(start + self.codec_delay));
        copy.set_duration(presented);
        if self.container == Container::Matroska && presented < decoded {
            container::discard_at_end(&mut copy, decoded - presented);
        }
        copy
    }
}

impl AudioFeed for CopyFeed {
    fn parameters(&self) -> Parameters {
        let padding = (self.codec_delay > 0).then(|| u32::try_from(self.codec_delay).ok());
        container::portable_parameters(&self.source.parameters, padding.flatten())
    }

    fn time_base(&self) -> Rational {
        self.source.sample_base()
    }

    fn next(&mut self) -> Result<Option<Packet>, MediaError> {
        if self.ended {
            return Ok(None);
        }
        let Some(source) = self.source.next_packet()? else {
            self.ended = true;
            return Ok(None);
        };
        let sample_base = self.source.sample_base();
        let stated = source.pts().or(source.dts()).map(|pts| {
            (pts - self.track_start.first_pts).rescale(self.source.time_base, sample_base)
                - self.track_start.skip
        });
        let stated_duration = source.duration().rescale(self.source.time_base, sample_base);
        let discarded = i64::from(container::discarded_samples(&source).1);
        let known = container::audio_duration(&self.source.parameters, source.size());
        let length = self.grid.measure(known, stated_duration);
        let start = self.grid.place(stated, length.decoded);
        if start >= self.limit {
            self.ended = true;
            return Ok(None);
        }
        self.ended = start + length.decoded >= self.limit;
        let presented = length
            .presented
            .min(length.decoded - discarded)
            .min(self.limit - start);
        Ok(Some(self.packet(
            &source,
            start,
            presented.max(0),
            length.decoded,
        )))
    }
}

/// Computes the exact sample positions of packets if the source counts in coarser ticks (milliseconds in
/// Matroska), as long as its timestamps agree with an unbroken sequence.
struct SampleGrid {
    /// Number of samples in one tick of the source.
    tick: i64,
    /// Start and end of the previous packet, in samples.
    previous: Option<(i64, i64)>,
}

/// The length of one packet, in samples.
struct Length {
    /// Number of samples that a decoder returns.
    decoded: i64,
    /// Number of those samples that the source presents.
    presented: i64,
}

impl SampleGrid {
    /// Finds the length of a packet. `known` follows from the codec and is 0 if it does not; `stated` is the
    /// container's.
    fn measure(&self, known: i64, stated: i64) -> Length {
        let agree = (known - stated).abs() <= self.tick;
        let (decoded, presented) = match (known, stated) {
            (0, _) => (stated, stated),
            (_, 0) => (known, known),
            _ if agree => (known, known),
            _ => (known.max(stated), stated),
        };
        Length { decoded, presented }
    }

    /// Returns the start of the next packet.
    fn place(&mut self, stated: Option<i64>, length: i64) -> i64 {
        let start = match (stated, self.previous) {
            (Some(stated), Some((_, end))) if (stated - end).abs() <= self.tick => end,
            // Muxers require increasing timestamps: a packet that steps back is put one sample after the
            // previous start.
            (Some(stated), Some((start, _))) => stated.max(start + 1),
            (Some(stated), None) => stated,
            (None, previous) => previous.map_or(0, |(_, end)| end),
        };
        self.previous = Some((start, start + length));
        start
    }
}
