//! The second pass over a source video, run by the coordinator when a job starts: cuts the file into segments
//! at safe keyframes by copying packets. Stretches that are too long without a safe cut are re-encoded
//! without loss.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::MediaError;
use super::index::{Scanned, Scanner, VideoIndex};
use super::packets::PacketWriter;
use super::pieces::{self, CutLimits, Piece};
use super::reencode::{Reencoder, Stretch};
use super::segment::{Emit, SegmentFile, segment_path};
use crate::frame::PictureFormat;

/// Cuts the video track that `index` describes into segment files in `out_dir`, which must exist, as far as
/// the first `frames` source frames need. The PTS in the segments are those of the source. Each segment is
/// handed to `emit` as soon as it is complete; `emit` may move or delete the file.
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
    };
    for piece in pieces::split(&index.cuts, index.packets, shown, frames, limits) {
        copy.skip_to(piece.packets.start)?;
        if piece.reencode {
            copy.reencode(&piece, &mut emit)?;
        } else {
            copy.copy(&piece, &mut emit)?;
        }
    }
    Ok(())
}

/// The state of one pass over the source file.
struct CopyPass<'a> {
    index: &'a VideoIndex,
    picture: &'a PictureFormat,
    out_dir: &'a Path,
    part_frames: u64,
    scanner: Scanner,
}

impl CopyPass<'_> {
    fn skip_to(&mut self, packet: u64) -> Result<(), MediaError> {
        while self.scanner.number < packet {
            self.next()?;
        }
        Ok(())
    }

    /// Reads the next packet of the track. There must be one, because the index counted it.
    fn next(&mut self) -> Result<Scanned<'_>, MediaError> {
        self.scanner.next()?.ok_or_else(|| changed(&self.index.path))
    }

    fn copy(&mut self, piece: &Piece, emit: Emit) -> Result<(), MediaError> {
        let path = segment_path(self.out_dir, piece.shown.start);
        let header = self.index.header_at(piece.packets.start);
        let write = |result: io::Result<()>| result.map_err(MediaError::io("write", &path));
        let mut writer = PacketWriter::create(&path, &header).map_err(MediaError::io("write", &path))?;
        let mut cuts = cuts_in(self.index, &piece.packets);
        let mut shown = piece.shown.start;
        for number in piece.packets.clone() {
            let packet = self.next()?;
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

    fn reencode(&mut self, piece: &Piece, emit: Emit) -> Result<(), MediaError> {
        let position = |frame: u64| usize::try_from(frame).unwrap_or(usize::MAX);
        let stretch = Stretch {
            source: &self.index.path,
            out_dir: self.out_dir,
            picture: self.picture,
            first: piece.shown.start,
            pts: &self.index.pts[position(piece.shown.start)..position(piece.shown.end)],
            part_frames: self.part_frames,
        };
        let mut reencoder = Reencoder::start(stretch, &self.index.header_at(piece.packets.start))?;
        for _ in piece.packets.clone() {
            let packet = self.next()?;
            reencoder.push(&packet, emit)?;
        }
        reencoder.finish(emit)
    }
}

/// Returns the cuts in a stretch of packets as (packet, earliest PTS that is shown from there on).
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
