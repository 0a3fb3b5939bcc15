//! First pass over a video file: the time stamp of every frame that is shown, and where decoding may start.
//!
//! A *source frame* is a packet of the video track whose picture is shown: not one that an edit list cuts off,
//! and not a leading picture whose references lie before the track's start. A *safe cut* is a packet that
//! - is an H.264 IDR, or an HEVC IDR, BLA or CRA, by its NAL units (a container's keyframe flag also marks open
//!   GOPs, whose leading pictures need the GOP before);
//! - comes before no packet that is shown earlier than it, and after none that is shown later;
//! - needs no parameter set that only an earlier packet carries.

use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::packet::side_data::Type as SideDataType;

use super::MediaError;
use super::ffi;
use super::nal::{self, Access, Framing, Unit};
use super::packets::StreamHeader;
use super::probe::{self, VideoCodec, VideoProbe};

/// A Matroska file that ends so much before its stated duration was cut off.
const DURATION_TOLERANCE_MS: i64 = 500;

/// What the first pass found. Its size grows with the video only by the time stamps and the cuts.
#[derive(Clone, Debug)]
pub struct VideoIndex {
    pub(super) path: PathBuf,
    pub(super) codec: VideoCodec,
    pub(super) reorder: u8,
    /// Decoder set-up, and the packet from which it holds.
    pub(super) set_ups: Vec<(u64, Vec<u8>)>,
    /// In decode order; the first is packet 0.
    pub(super) cuts: Vec<Cut>,
    /// Number of packets of the track.
    pub(super) packets: u64,
    /// PTS of every source frame, strictly increasing, in the track's time base.
    pub pts: Vec<i64>,
    /// How long the last source frame is shown, in ticks, where the file says so.
    pub last_duration: Option<i64>,
}

/// A place where the track may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Packet of the track, in decode order.
    pub(super) packet: u64,
    /// Source frames before it.
    pub(super) shown: u64,
    /// The decoder must be set up anew here.
    pub(super) forced: bool,
    /// No later packet may be shown before this.
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

/// One packet as both passes see it.
pub(super) struct Scanned<'a> {
    pub(super) number: u64,
    /// `None` where it is not shown.
    pub(super) pts: Option<i64>,
    pub(super) key: bool,
    pub(super) duration: i64,
    pub(super) data: &'a [u8],
    unit: Unit,
    new_set_up: Option<&'a [u8]>,
}

/// Reads the packets of the video track in decode order and tells which are shown: the same in every pass.
pub(super) struct Scanner {
    input: ffmpeg::format::context::Input,
    path: PathBuf,
    codec: VideoCodec,
    track: usize,
    framing: Framing,
    set_up: Vec<u8>,
    number: u64,
    leading: Leading,
    packet: ffmpeg::Packet,
    /// End of the last packet of any track, in milliseconds.
    end_ms: i64,
}

/// Which pictures at a track's start, or after a break, lack their references.
#[derive(Default)]
struct Leading {
    started: bool,
    /// H.264 that begins with an open GOP: nothing before this is shown.
    floor: Option<i64>,
    /// HEVC: skippable leading pictures of the present random access point are not decodable.
    skip: bool,
    sequence_ended: bool,
}

impl Leading {
    /// Whether the picture lacks references. `key` is the container's flag.
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
        let stream = probe::video_stream(&input, path)?;
        let track = stream.index();
        let set_up = ffi::video_facts(&stream).extradata;
        Ok(Self {
            framing: Framing::of(codec, &set_up),
            path: path.to_owned(),
            number: 0,
            leading: Leading::default(),
            packet: ffmpeg::Packet::empty(),
            end_ms: 0,
            input,
            codec,
            track,
            set_up,
        })
    }

    /// The next packet of the track, or `None` at the end of the file.
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
        let new_set_up = packet
            .side_data()
            .find(|data| data.kind() == SideDataType::NewExtraData)
            .map(|data| data.data().to_vec())
            .filter(|set_up| *set_up != self.set_up);
        let changed = new_set_up.is_some();
        if let Some(set_up) = new_set_up {
            self.framing = Framing::of(self.codec, &set_up);
            self.set_up = set_up;
        }
        let pts = packet.pts().ok_or_else(|| {
            let cause =
                format!("frame {number} has no time stamp; rewrite it first: ffmpeg -i IN -c copy OUT.mp4");
            MediaError::bad_input(&self.path, cause)
        })?;
        let data = packet.data().unwrap_or_default();
        let unit = nal::inspect(self.codec, self.framing, &self.set_up, data);
        let hidden = self.leading.hides(self.codec, unit, packet.is_key(), pts) || ffi::is_hidden(packet);
        Ok(Some(Scanned {
            number,
            pts: (!hidden).then_some(pts),
            key: packet.is_key(),
            duration: packet.duration(),
            data,
            unit,
            new_set_up: changed.then_some(self.set_up.as_slice()),
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

    /// Matroska has no index of its packets, but states how long it is.
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

/// Reads the whole file once. `progress` is told the number of source frames found so far.
pub fn index_video(
    path: &Path,
    video: &VideoProbe,
    progress: &mut dyn FnMut(u64),
) -> Result<VideoIndex, MediaError> {
    let mut scanner = Scanner::open(path, video.codec)?;
    let reorder = {
        let stream = probe::video_stream(&scanner.input, path)?;
        u8::try_from(ffi::video_facts(&stream).reorder).unwrap_or(0)
    };
    let mut index = VideoIndex {
        path: path.to_owned(),
        codec: video.codec,
        reorder,
        set_ups: vec![(0, scanner.set_up.clone())],
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
    let mut own_sets = false;
    while let Some(packet) = scanner.next()? {
        index.packets = packet.number + 1;
        let forced = packet.new_set_up.is_some() && packet.number > 0;
        if let Some(set_up) = packet.new_set_up {
            index.set_ups.push((packet.number, set_up.to_vec()));
        }
        let is_random = packet.unit.access.is_random();
        let carries_sets = packet.unit.own_sets;
        own_sets |= carries_sets && !is_random;
        if packet.number > 0 && is_random && (!own_sets || carries_sets || forced) {
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
        own_sets |= carries_sets;
        let Some(pts) = packet.pts else { continue };
        // Bounds grow along the list, so that those which this packet breaks are its last ones.
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
            "frames {at} and {} have the same time stamp; convert it first: ffmpeg -i IN -c:v libx264 -crf 14 -c:a \
             copy OUT.mp4",
            at + 1
        );
        return Err(MediaError::bad_input(path, cause));
    }
    Ok(index)
}

fn unsafe_change(path: &Path, packet: u64) -> MediaError {
    let cause = format!(
        "its video changes its coding in the middle of a group of pictures (frame {packet}); convert it first: \
         ffmpeg -i IN -c:v libx264 -crf 14 -c:a copy OUT.mp4"
    );
    MediaError::bad_input(path, cause)
}

impl VideoIndex {
    /// What a decoder needs to start at `packet`.
    pub(super) fn header_at(&self, packet: u64) -> StreamHeader {
        let at = self.set_ups.partition_point(|&(from, _)| from <= packet);
        StreamHeader {
            codec: self.codec,
            reorder: self.reorder,
            extradata: self.set_ups[at.saturating_sub(1)].1.clone(),
        }
    }
}
