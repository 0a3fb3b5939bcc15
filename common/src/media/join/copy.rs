//! Copies audio packets, moved so that the first presented sample is at time 0 and cut at the end of the video.

use ffmpeg_next::codec::{Id, Parameters, packet};
use ffmpeg_next::{Packet, Rational, Rescale};

use super::source::{AudioSource, Head};
use crate::media::MediaError;
use crate::media::container::{self, Container};

pub(super) struct CopyFeed {
    source: AudioSource,
    head: Head,
    /// End of the video, in samples.
    limit: i64,
    container: Container,
    /// Samples that Matroska is told to take off every timestamp (it has this for Opus alone).
    codec_delay: i64,
    grid: SampleGrid,
    ended: bool,
}

impl CopyFeed {
    pub(super) fn new(source: AudioSource, head: &Head, limit: i64, container: Container) -> Self {
        // A timestamp is within half a tick of the truth, a difference of two within one.
        let tick = 1_i64.rescale(source.time_base, source.sample_base());
        let opus_in_matroska = container == Container::Matroska && source.parameters.id() == Id::OPUS;
        Self {
            source,
            head: *head,
            limit,
            container,
            codec_delay: if opus_in_matroska { head.skip } else { 0 },
            grid: SampleGrid { tick, previous: None },
            ended: false,
        }
    }

    pub(super) fn parameters(&self) -> Parameters {
        let padding = (self.codec_delay > 0).then(|| u32::try_from(self.codec_delay).ok());
        container::portable_parameters(&self.source.parameters, padding.flatten())
    }

    pub(super) fn time_base(&self) -> Rational {
        self.source.sample_base()
    }

    pub(super) fn next(&mut self) -> Result<Option<Packet>, MediaError> {
        if self.ended {
            return Ok(None);
        }
        let Some(source) = self.source.next_packet()? else {
            self.ended = true;
            return Ok(None);
        };
        let sample_base = self.source.sample_base();
        let stated = source.pts().or(source.dts()).map(|pts| {
            (pts - self.head.first_pts).rescale(self.source.time_base, sample_base) - self.head.skip
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

    fn packet(&self, source: &Packet, start: i64, presented: i64, decoded: i64) -> Packet {
        // A fresh packet: the source's side data speaks of the source's timeline.
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

/// Puts packets on the grid of samples again where the source counts in coarser ticks (milliseconds in
/// Matroska), as long as its timestamps agree with an unbroken sequence.
struct SampleGrid {
    /// Samples in one tick of the source.
    tick: i64,
    /// Start and end of the previous packet.
    previous: Option<(i64, i64)>,
}

/// Lengths of one packet in samples.
struct Length {
    /// What a decoder makes of it.
    decoded: i64,
    /// What of that the source presents.
    presented: i64,
}

impl SampleGrid {
    /// `known` is the codec's own idea of the packet's length, 0 where it has none.
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

    fn place(&mut self, stated: Option<i64>, length: i64) -> i64 {
        let start = match (stated, self.previous) {
            (Some(stated), Some((_, end))) if (stated - end).abs() <= self.tick => end,
            // Muxers want order: a source that steps back is held just after the packet before.
            (Some(stated), Some((start, _))) => stated.max(start + 1),
            (Some(stated), None) => stated,
            (None, previous) => previous.map_or(0, |(_, end)| end),
        };
        self.previous = Some((start, start + length));
        start
    }
}
