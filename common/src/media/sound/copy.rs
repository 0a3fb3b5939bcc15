//! Copies audio packets, moved so that the first presented sample is at time 0 and cut at the end of the video. It runs
//! twice: at ingest on the packets of the user's file, without an end, and at the join on the file that ingest made.

use ffmpeg_next::codec::{Id, Parameters, packet};
use ffmpeg_next::{Packet, Rational, Rescale};

use super::source::{TrackStart, sample_base};
use crate::media::container::{self, Container};

/// A track whose packets are copied.
pub(in crate::media) struct CopiedTrack {
    pub(in crate::media) parameters: Parameters,
    pub(in crate::media) time_base: Rational,
    pub(in crate::media) rate_hz: u32,
    pub(in crate::media) start: TrackStart,
}

/// Makes the packets of the new file from those of a track.
pub(in crate::media) struct PacketCopier {
    track: CopiedTrack,
    /// End of the video, in audio samples.
    limit: i64,
    container: Container,
    /// Number of samples that Matroska players subtract from every timestamp (it has this for Opus only).
    codec_delay: i64,
    grid: SampleGrid,
    ended: bool,
}

impl PacketCopier {
    pub(in crate::media) fn new(track: CopiedTrack, limit: i64, container: Container) -> Self {
        // A timestamp has an error of up to half a tick, the difference of two of up to one tick.
        let tick = 1_i64.rescale(track.time_base, sample_base(track.rate_hz));
        let opus_in_matroska = container == Container::Matroska && track.parameters.id() == Id::OPUS;
        Self {
            codec_delay: if opus_in_matroska { track.start.skip } else { 0 },
            track,
            limit,
            container,
            grid: SampleGrid { tick, previous: None },
            ended: false,
        }
    }

    /// Returns the codec parameters for the muxer.
    pub(in crate::media) fn parameters(&self) -> Parameters {
        let padding = (self.codec_delay > 0).then(|| u32::try_from(self.codec_delay).ok());
        container::portable_parameters(&self.track.parameters, padding.flatten())
    }

    /// Returns the duration of a sample in seconds, the unit of the new packets' time stamps.
    pub(in crate::media) fn time_base(&self) -> Rational {
        sample_base(self.track.rate_hz)
    }

    /// Returns the copy of the next packet, or `None` at the end of the video.
    pub(in crate::media) fn copy(&mut self, source: &Packet) -> Option<Packet> {
        if self.ended {
            return None;
        }
        let (sample_base, start) = (self.time_base(), self.track.start);
        let stated = source
            .pts()
            .or(source.dts())
            .map(|pts| (pts - start.first_pts).rescale(self.track.time_base, sample_base) - start.skip);
        let stated_duration = source.duration().rescale(self.track.time_base, sample_base);
        let discarded = i64::from(container::discarded_samples(source).1);
        let known = container::audio_duration(&self.track.parameters, source.size());
        let length = self.grid.measure(known, stated_duration);
        let start = self.grid.place(stated, length.decoded);
        if start >= self.limit {
            self.ended = true;
            return None;
        }
        self.ended = start + length.decoded >= self.limit;
        let presented = length
            .presented
            .min(length.decoded - discarded)
            .min(self.limit - start);
        Some(self.packet(source, start, presented.max(0), length.decoded))
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
