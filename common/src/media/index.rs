//! The first pass over a source video, run by the coordinator when a job starts: it finds the timestamp of
//! every frame that is shown, and the packets where decoding may start.
//!
//! A *source frame* is a packet of the video track whose picture is shown. Packets that an edit list cuts off
//! are not source frames, nor are leading pictures whose references lie before the track's start. A *safe
//! cut* is a packet that
//! - is an H.264 IDR, or an HEVC IDR, BLA or CRA, by its NAL units (a container's keyframe flag also marks
//!   open GOPs, whose leading pictures need the GOP before);
//! - divides the video in both orders: all packets before it in the file are shown before it, and all packets
//!   after it in the file are shown after it;
//! - needs no parameter set that only an earlier packet carries.

use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::packet::side_data::Type as SideDataType;

use super::MediaError;
use super::ffi;
use super::nal::{self, Access, Framing, Unit};
use super::packets::StreamHeader;
use super::probe::{self, VideoCodec, VideoProbe};

/// A Matroska file that ends more than this before its stated duration is truncated.
const DURATION_TOLERANCE_MS: i64 = 500;

/// The result of the first pass. It grows with the length of the video only by the timestamps and the cuts.
#[derive(Clone, Debug)]
pub struct VideoIndex {
    pub(super) path: PathBuf,
    pub(super) codec: VideoCodec,
    pub(super) reorder: u8,
    /// The codec header (`extradata`) and its changes, each with the first packet that it applies to.
    pub(super) extradata_changes: Vec<(u64, Vec<u8>)>,
    /// All safe cuts in decode order; the first is packet 0.
    pub(super) cuts: Vec<Cut>,
    /// Number of packets of the track.
    pub(super) packets: u64,
    /// PTS of every source frame, strictly increasing, in the track's time base.
    pub pts: Vec<i64>,
    /// Duration of the last source frame, in ticks of the track's time base, if the file states it.
    pub last_duration: Option<i64>,
}

/// A packet before which the track may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Number of the packet in decode order.
    pub(super) packet: u64,
    /// Number of source frames before the cut.
    pub(super) shown: u64,
    /// Whether the track must be cut here, because the codec header changes.
    pub(super) forced: bool,
    /// Earliest PTS that later packets may have; one that is shown earlier makes the cut unsafe.
    bound: i64,
}

#[cfg(test)]
impl Cut {
    pub(super) fn plain(packet: u64, shown: u64, forced: bool) -> Self {
        Self {
            packet,
            shown,
            forced,
            bound: i64::MIN,
        }
    }
}

/// One packet of the video track.
pub(super) struct Scanned<'a> {
    /// Number of the packet in decode order.
    pub(super) number: u64,
    /// PTS of the picture, or `None` if it is not shown.
    pub(super) pts: Option<i64>,
    pub(super) key: bool,
    pub(super) duration: i64,
    pub(super) data: &'a [u8],
    unit: Unit,
    new_extradata: Option<&'a [u8]>,
}

/// Reads the packets of the video track in decode order and finds which of them are shown. Both passes use
/// it, so that they agree.
pub(super) struct Scanner {
    input: ffmpeg::format::context::Input,
    path: PathBuf,
    codec: VideoCodec,
    track: usize,
    framing: Framing,
    extradata: Vec<u8>,
    /// Number of the next packet.
    pub(super) number: u64,
    leading: LeadingPictures,
    packet: ffmpeg::Packet,
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
        !self.started
            || self.floor.is_some_and(|floor| pts < floor)
            || (self.skip && unit.access == Access::SkippedLeading)
    }
}

impl Scanner {
    pub(super) fn open(path: &Path, codec: VideoCodec) -> Result<Self, MediaError> {
        let input = probe::open_input(path)?;
        let stream = probe::video_track(&input, path)?;
        let track = stream.index();
        let extradata = ffi::video_facts(&stream).extradata;
        Ok(Self {
            framing: Framing::of(codec, &extradata),
            path: path.to_owned(),
            number: 0,
            leading: LeadingPictures::default(),
            packet: ffmpeg::Packet::empty(),
            end_ms: 0,
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
            let cause = format!(
                "frame {number} has no timestamp; rewrite the file first: ffmpeg -i IN -c copy OUT.mp4"
            );
            MediaError::bad_input(&self.path, cause)
        })?;
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
    fn refuse_early_end(&self) -> Result<(), MediaError> {
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

/// Reads the whole file once and builds its index. `progress` receives the number of source frames found so
/// far.
///
/// # Errors
/// [`MediaError::BadInput`] if the file is truncated or damaged, or if its timestamps or codec headers cannot
/// be used.
pub fn index_video(
    path: &Path,
    video: &VideoProbe,
    progress: &mut dyn FnMut(u64),
) -> Result<VideoIndex, MediaError> {
    let mut scanner = Scanner::open(path, video.codec)?;
    let reorder = {
        let stream = probe::video_track(&scanner.input, path)?;
        u8::try_from(ffi::video_facts(&stream).reorder).unwrap_or(0)
    };
    let mut index = VideoIndex {
        path: path.to_owned(),
        codec: video.codec,
        reorder,
        extradata_changes: vec![(0, scanner.extradata.clone())],
        cuts: vec![Cut {
            packet: 0,
            shown: 0,
            forced: true,
            bound: i64::MIN,
        }],
        packets: 0,
        pts: Vec::new(),
        last_duration: None,
    };
    let mut latest: Option<i64> = None;
    let mut own_parameter_sets = false;
    while let Some(packet) = scanner.next()? {
        index.packets = packet.number + 1;
        let forced = packet.new_extradata.is_some() && packet.number > 0;
        if let Some(extradata) = packet.new_extradata {
            index.extradata_changes.push((packet.number, extradata.to_vec()));
        }
        let is_random = packet.unit.access.is_random();
        let carries_sets = packet.unit.own_parameter_sets;
        own_parameter_sets |= carries_sets && !is_random;
        if packet.number > 0 && is_random && (!own_parameter_sets || carries_sets || forced) {
            let after = latest.map_or(i64::MIN, |latest| latest.saturating_add(1));
            index.cuts.push(Cut {
                packet: packet.number,
                shown: index.pts.len() as u64,
                forced,
                bound: packet.pts.map_or(after, |pts| pts.max(after)),
            });
        } else if forced {
            return Err(unsafe_change(path, packet.number));
        }
        own_parameter_sets |= carries_sets;
        let Some(pts) = packet.pts else { continue };
        // Bounds grow along the list, so that the cuts which this packet makes unsafe are the last ones.
        while let Some(cut) = index.cuts.pop_if(|cut| cut.bound > pts) {
            if cut.forced {
                return Err(unsafe_change(path, cut.packet));
            }
        }
        if latest.is_none_or(|latest| pts > latest) {
            latest = Some(pts);
            index.last_duration = Some(packet.duration).filter(|&duration| duration > 0);
        }
        index.pts.push(pts);
        progress(index.pts.len() as u64);
    }
    scanner.refuse_early_end()?;
    if index.pts.is_empty() {
        return Err(MediaError::bad_input(path, "its video track has no frames"));
    }
    index.pts.sort_unstable();
    if let Some(at) = index.pts.windows(2).position(|pair| pair[0] == pair[1]) {
        let cause = format!(
            "frames {at} and {} have the same timestamp; convert the file first: ffmpeg -i IN -c:v libx264 -crf 14 -c:a \
             copy OUT.mp4",
            at + 1
        );
        return Err(MediaError::bad_input(path, cause));
    }
    Ok(index)
}

fn unsafe_change(path: &Path, packet: u64) -> MediaError {
    let cause = format!(
        "the codec header of its video changes in the middle of a group of pictures (frame {packet}); convert the file first: \
         ffmpeg -i IN -c:v libx264 -crf 14 -c:a copy OUT.mp4"
    );
    MediaError::bad_input(path, cause)
}

impl VideoIndex {
    /// Returns the header that a decoder needs to start at `packet`.
    pub(super) fn header_at(&self, packet: u64) -> StreamHeader {
        let at = self
            .extradata_changes
            .partition_point(|&(from, _)| from <= packet);
        StreamHeader {
            codec: self.codec,
            reorder: self.reorder,
            extradata: self.extradata_changes[at.saturating_sub(1)].1.clone(),
        }
    }
}
