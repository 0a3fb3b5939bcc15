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

use super::MediaError;
use super::ffi;
use super::nal::Access;
use super::packets::StreamHeader;
use super::probe::{self, VideoCodec, VideoProbe};
use super::remedy;
use super::scanner::Scanner;
use crate::time::TimeBase;

/// A video with more frames than this in a millisecond has wrong time stamps.
const MAX_FRAMES_PER_MS: u64 = 1;

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
    pub(super) time_base: TimeBase,
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
        time_base: video.time_base,
    };
    let rate = scanner.rate.clone();
    let mut latest: Option<i64> = None;
    let mut own_parameter_sets = false;
    // No picture that follows an H.264 IDR in the file is shown before it.
    let mut floor: Option<i64> = None;
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
        if let Some(before) = floor.filter(|&before| pts < before) {
            let cause = format!(
                "its time stamps step back at frame {}, from {} to {}; {}",
                packet.number,
                index.seconds(before),
                index.seconds(pts),
                remedy::retime(&rate)
            );
            return Err(MediaError::bad_input(path, cause));
        }
        if video.codec == VideoCodec::H264 && packet.unit.access == Access::Idr {
            floor = Some(pts);
        }
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
        let cause = match index.packets {
            0 => "its video track has no frames".to_owned(),
            packets => format!(
                "it shows none of its {packets} frames: an edit list hides them, or their time stamps are negative"
            ),
        };
        return Err(MediaError::bad_input(path, cause));
    }
    index.pts.sort_unstable();
    index.refuse_crowded_time_stamps(&rate)?;
    Ok(index)
}

fn unsafe_change(path: &Path, packet: u64) -> MediaError {
    let cause = format!(
        "the codec header of its video changes in the middle of a group of pictures (frame {packet}); {}",
        remedy::convert_plain()
    );
    MediaError::bad_input(path, cause)
}

impl VideoIndex {
    /// Returns the PTS of `frames` source frames from `first` on, or of fewer if the track ends before.
    pub(super) fn pts_of(&self, first: u64, frames: u64) -> &[i64] {
        let position =
            |frame: u64| usize::try_from(frame).map_or(self.pts.len(), |at| at.min(self.pts.len()));
        &self.pts[position(first)..position(first.saturating_add(frames))]
    }

    /// Returns the time at which source frame `frame` is shown, in milliseconds after the first one; for the
    /// frame after the last, the time at which the video ends.
    pub(super) fn milliseconds(&self, frame: u64) -> u64 {
        let at = |frame: u64| self.pts_of(frame, 1).first().copied();
        let last = self.pts.last().copied().unwrap_or(0);
        let end = last.saturating_add(self.last_duration.unwrap_or(0));
        let first = at(0).unwrap_or(0);
        let ticks = i128::from(at(frame).unwrap_or(end)) - i128::from(first);
        let base = self.time_base;
        u64::try_from(ticks * 1000 * i128::from(base.num) / i128::from(base.den.max(1))).unwrap_or(0)
    }

    /// Returns a PTS in seconds, for messages.
    fn seconds(&self, pts: i64) -> String {
        let base = self.time_base;
        let seconds = pts as f64 * f64::from(base.num) / f64::from(base.den.max(1));
        format!("{seconds:.3} s")
    }

    /// Refuses frames that have the same time stamp, or that follow each other faster than any camera films.
    fn refuse_crowded_time_stamps(&self, rate: &str) -> Result<(), MediaError> {
        let same = |pair: &[i64]| pair[0] == pair[1];
        if let Some(at) = self.pts.windows(2).position(same) {
            let count = self.pts.windows(2).filter(|pair| same(pair)).count();
            let cause = format!(
                "{count} of its frames have the same timestamp as another, first frame {} at {}; {}",
                at + 1,
                self.seconds(self.pts[at]),
                remedy::retime(rate)
            );
            return Err(MediaError::bad_input(&self.path, cause));
        }
        let frames = self.pts.len() as u64;
        let ms = self.milliseconds(frames);
        if frames > 2 && frames > ms.saturating_mul(MAX_FRAMES_PER_MS) {
            let cause = format!(
                "its time stamps are wrong: {frames} frames in {ms} ms; {}",
                remedy::retime("25")
            );
            return Err(MediaError::bad_input(&self.path, cause));
        }
        Ok(())
    }

    /// Makes the error of a file that cannot be used because of a fault at source frame `frame`.
    pub(super) fn refusal(&self, frame: u64, cause: &str) -> MediaError {
        let ms = self.milliseconds(frame);
        let time = format!("{}.{:03} s", ms / 1000, ms % 1000);
        MediaError::bad_input(&self.path, format!("at {time} (frame {frame}): {cause}"))
    }

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
