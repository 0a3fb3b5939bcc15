//! Reads the packets of a source video in decode order, and finds which of them are shown. Both passes over
//! the file use it, so that they agree: the index, and the cutting.

use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::packet::side_data::Type as SideDataType;

use super::MediaError;
use super::ffi;
use super::nal::{self, Access, Framing, Unit};
use super::probe::{self, VideoCodec};
use super::remedy;
use crate::time::FrameRate;

/// A Matroska file that ends more than this before its stated duration is truncated.
const DURATION_TOLERANCE_MS: i64 = 500;

/// One packet of the video track.
pub(super) struct Scanned<'a> {
    /// Number of the packet in decode order.
    pub(super) number: u64,
    /// PTS of the picture, or `None` if it is not shown.
    pub(super) pts: Option<i64>,
    pub(super) key: bool,
    pub(super) duration: i64,
    pub(super) data: &'a [u8],
    pub(super) unit: Unit,
    /// The codec header, if it changes here.
    pub(super) new_extradata: Option<&'a [u8]>,
}

/// Reads the packets of the video track in decode order and finds which of them are shown.
pub(super) struct Scanner {
    pub(super) input: ffmpeg::format::context::Input,
    path: PathBuf,
    codec: VideoCodec,
    track: usize,
    framing: Framing,
    pub(super) extradata: Vec<u8>,
    /// Number of the next packet.
    pub(super) number: u64,
    leading: LeadingPictures,
    packet: ffmpeg::Packet,
    /// The frame rate that new time stamps would have, for messages.
    pub(super) rate: String,
    /// The latest end of any packet of any track, in milliseconds.
    end_ms: i64,
}

/// Finds the pictures at a track's start, or after a break in it, whose references are missing.
#[derive(Default)]
struct LeadingPictures {
    started: bool,
    /// PTS of the first picture of an H.264 track that begins with an open GOP; earlier pictures are not
    /// shown.
    floor: Option<i64>,
    /// Whether the RASL pictures of the present HEVC random access point cannot be decoded.
    skip: bool,
    sequence_ended: bool,
}

impl LeadingPictures {
    /// Whether references of the picture are missing. `key` is the container's keyframe flag.
    fn hides(&mut self, codec: VideoCodec, unit: Unit, key: bool, pts: i64) -> bool {
        let starts = !self.started && (key || unit.access.is_random());
        if codec == VideoCodec::Hevc && unit.access.is_random() {
            self.skip = starts || unit.access == Access::BrokenLink || self.sequence_ended;
            self.sequence_ended = false;
        }
        self.sequence_ended |= unit.ends_sequence;
        if starts {
            self.started = true;
            self.floor = (codec == VideoCodec::H264 && unit.access != Access::Idr).then_some(pts);
        }
        // A packet before the first random access point is a source frame: its time counts, and it shows the
        // first picture that can be decoded.
        self.started
            && (self.floor.is_some_and(|floor| pts < floor)
                || (self.skip && unit.access == Access::SkippedLeading))
    }
}

impl Scanner {
    pub(super) fn open(path: &Path, codec: VideoCodec) -> Result<Self, MediaError> {
        let input = probe::open_input(path)?;
        let stream = probe::video_track(&input, path)?;
        let track = stream.index();
        let extradata = ffi::video_facts(&stream).extradata;
        let rate = probe::frame_rate(&stream).unwrap_or(FrameRate::FPS_25);
        Ok(Self {
            framing: Framing::of(codec, &extradata),
            path: path.to_owned(),
            number: 0,
            leading: LeadingPictures::default(),
            packet: ffmpeg::Packet::empty(),
            end_ms: 0,
            rate: rate.to_string(),
            input,
            codec,
            track,
            extradata,
        })
    }

    /// Reads the next packet of the track, or returns `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<Scanned<'_>>, MediaError> {
        loop {
            self.packet = ffmpeg::Packet::empty();
            match self.packet.read(&mut self.input) {
                Ok(()) => {}
                Err(ffmpeg::Error::Eof) => return Ok(None),
                Err(error) => {
                    let cause = format!(
                        "the file is truncated or damaged: reading ends at frame {} ({error})",
                        self.number
                    );
                    return Err(MediaError::bad_input(&self.path, cause));
                }
            }
            if self.packet.is_corrupt() {
                let cause = format!(
                    "the file is truncated or damaged: it ends inside a packet near frame {}; copy or download it \
                     again",
                    self.number
                );
                return Err(MediaError::bad_input(&self.path, cause));
            }
            self.note_end();
            if self.packet.stream() == self.track {
                break;
            }
        }
        let number = self.number;
        self.number += 1;
        let packet = &self.packet;
        let new_extradata = packet
            .side_data()
            .find(|data| data.kind() == SideDataType::NewExtraData)
            .map(|data| data.data().to_vec())
            .filter(|extradata| *extradata != self.extradata);
        let changed = new_extradata.is_some();
        if let Some(extradata) = new_extradata {
            self.framing = Framing::of(self.codec, &extradata);
            self.extradata = extradata;
        }
        let pts = packet.pts().ok_or_else(|| {
            let cause = format!("frame {number} has no timestamp; {}", remedy::retime(&self.rate));
            MediaError::bad_input(&self.path, cause)
        })?;
        if packet
            .side_data()
            .any(|data| data.kind() == SideDataType::EncryptionInfo)
        {
            let cause = format!(
                "its video is encrypted from frame {number} on (copy protection); give a file without encryption"
            );
            return Err(MediaError::bad_input(&self.path, cause));
        }
        let data = packet.data().unwrap_or_default();
        let unit = nal::inspect(self.codec, self.framing, &self.extradata, data);
        let hidden = self.leading.hides(self.codec, unit, packet.is_key(), pts) || ffi::is_hidden(packet);
        Ok(Some(Scanned {
            number,
            pts: (!hidden).then_some(pts),
            key: packet.is_key(),
            duration: packet.duration(),
            data,
            unit,
            new_extradata: changed.then_some(self.extradata.as_slice()),
        }))
    }

    fn note_end(&mut self) {
        let Some(stream) = self.input.stream(self.packet.stream()) else {
            return;
        };
        let base = stream.time_base();
        let start = self.packet.pts().or(self.packet.dts()).unwrap_or(0);
        let ticks = start.saturating_add(self.packet.duration().max(0));
        let ms =
            i128::from(ticks) * 1000 * i128::from(base.numerator()) / i128::from(base.denominator().max(1));
        self.end_ms = self.end_ms.max(i64::try_from(ms).unwrap_or(0));
    }

    /// Refuses a truncated Matroska file. Matroska has no index of its packets, but states its duration.
    pub(super) fn refuse_early_end(&self) -> Result<(), MediaError> {
        let stated_ms = self.input.duration() / 1000;
        let is_matroska = self.input.format().name().contains("matroska");
        if is_matroska && stated_ms > 0 && self.end_ms + DURATION_TOLERANCE_MS < stated_ms {
            let cause = format!(
                "the file is truncated: it ends after {} ms of {stated_ms} ms; copy or download it again",
                self.end_ms
            );
            return Err(MediaError::bad_input(&self.path, cause));
        }
        Ok(())
    }
}
