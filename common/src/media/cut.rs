//! Second pass over a video file: cuts it at safe keyframes by copying packets; stretches without a safe cut are
//! encoded anew without loss.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::MediaError;
use super::index::{Scanner, VideoIndex, index_video};
use super::packets::PacketWriter;
use super::pieces::{self, CutLimits, Piece};
use super::probe::VideoProbe;
use super::recode::{Recoder, Stretch};
use super::segment::{SegmentFile, segment_path};
use crate::frame::PictureFormat;

#[derive(Clone, Debug)]
pub struct CutVideo {
    /// PTS of every source frame, strictly increasing.
    pub pts: Vec<i64>,
    /// In order; together they hold every source frame.
    pub segments: Vec<SegmentFile>,
}

/// Cuts the whole video track into segment files in `out_dir`, which must exist. The PTS in them are the source's.
/// `progress` is told the number of source frames written.
pub fn cut_video(
    path: &Path,
    probe: &VideoProbe,
    out_dir: &Path,
    limits: CutLimits,
    progress: &mut dyn FnMut(u64),
) -> Result<CutVideo, MediaError> {
    let index = index_video(path, probe, &mut |_| {})?;
    let mut segments = Vec::new();
    let frames = index.pts.len() as u64;
    cut_segments(&index, &probe.picture, frames, out_dir, limits, &mut |segment| {
        progress(segment.first + segment.frames);
        segments.push(segment);
        Ok(())
    })?;
    Ok(CutVideo {
        pts: index.pts,
        segments,
    })
}

/// As [`cut_video`], from an index that was made before, and only as far as the first `frames` source frames need.
/// `emit` takes each segment as it is done and may move or delete it.
pub fn cut_segments(
    index: &VideoIndex,
    picture: &PictureFormat,
    frames: u64,
    out_dir: &Path,
    limits: CutLimits,
    emit: &mut dyn FnMut(SegmentFile) -> io::Result<()>,
) -> Result<(), MediaError> {
    let mut emit = |segment: SegmentFile| {
        let path = segment.path.clone();
        emit(segment).map_err(MediaError::io("store", &path))
    };
    let shown = index.pts.len() as u64;
    let mut copy = CopyPass {
        index,
        picture,
        out_dir,
        part_frames: limits.target_frames.max(1),
        scanner: Scanner::open(&index.path, index.codec)?,
        next_packet: 0,
    };
    for piece in pieces::split(&index.cuts, index.packets, shown, frames, limits) {
        copy.skip_to(piece.packets.start)?;
        if piece.recode {
            copy.recode(&piece, &mut emit)?;
        } else {
            copy.copy(&piece, &mut emit)?;
        }
    }
    Ok(())
}

struct CopyPass<'a> {
    index: &'a VideoIndex,
    picture: &'a PictureFormat,
    out_dir: &'a Path,
    part_frames: u64,
    scanner: Scanner,
    next_packet: u64,
}

type Emit<'a> = &'a mut dyn FnMut(SegmentFile) -> Result<(), MediaError>;

impl CopyPass<'_> {
    fn skip_to(&mut self, packet: u64) -> Result<(), MediaError> {
        while self.next_packet < packet {
            self.scanner.next()?.ok_or_else(|| changed(&self.index.path))?;
            self.next_packet += 1;
        }
        Ok(())
    }

    fn copy(&mut self, piece: &Piece, emit: Emit) -> Result<(), MediaError> {
        let path = segment_path(self.out_dir, piece.shown.start);
        let header = self.index.header_at(piece.packets.start);
        let write = |result: io::Result<()>| result.map_err(MediaError::io("write", &path));
        let mut writer = PacketWriter::create(&path, &header).map_err(MediaError::io("write", &path))?;
        let mut cuts = cuts_in(self.index, &piece.packets);
        let mut shown = piece.shown.start;
        for number in piece.packets.clone() {
            let packet = self.scanner.next()?.ok_or_else(|| changed(&self.index.path))?;
            self.next_packet += 1;
            if let Some((_, entry)) = cuts.next_if(|&(at, _)| at == number) {
                writer.entry(entry);
            }
            shown += u64::from(packet.pts.is_some());
            write(writer.packet(packet.pts, packet.key, packet.data))?;
        }
        write(writer.finish())?;
        if shown != piece.shown.end {
            return Err(changed(&self.index.path));
        }
        emit(SegmentFile {
            path,
            first: piece.shown.start,
            frames: piece.shown.end - piece.shown.start,
            reencoded: false,
        })
    }

    fn recode(&mut self, piece: &Piece, emit: Emit) -> Result<(), MediaError> {
        let position = |frame: u64| usize::try_from(frame).unwrap_or(usize::MAX);
        let stretch = Stretch {
            source: &self.index.path,
            out_dir: self.out_dir,
            picture: self.picture,
            first: piece.shown.start,
            pts: &self.index.pts[position(piece.shown.start)..position(piece.shown.end)],
            part_frames: self.part_frames,
        };
        let mut recoder = Recoder::start(stretch, &self.index.header_at(piece.packets.start))?;
        for _ in piece.packets.clone() {
            let packet = self.scanner.next()?.ok_or_else(|| changed(&self.index.path))?;
            self.next_packet += 1;
            recoder.push(&packet, emit)?;
        }
        recoder.finish(emit)
    }
}

/// The cuts in a stretch of packets: (packet, earliest PTS shown from there on).
fn cuts_in<'a>(
    index: &'a VideoIndex,
    packets: &Range<u64>,
) -> std::iter::Peekable<impl Iterator<Item = (u64, i64)> + use<'a>> {
    let (start, end) = (packets.start, packets.end);
    let first = index.cuts.partition_point(|cut| cut.packet < start);
    let inside = index.cuts[first..].iter().take_while(move |cut| cut.packet < end);
    inside
        .filter_map(|cut| {
            let frame = usize::try_from(cut.shown).ok()?;
            Some((cut.packet, *index.pts.get(frame)?))
        })
        .peekable()
}

fn changed(path: &Path) -> MediaError {
    MediaError::bad_input(path, "the file changed while it was read")
}
