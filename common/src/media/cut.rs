//! The second pass over a source video, run by the coordinator when a job starts: cuts the file into segments
//! at safe keyframes by copying packets. Stretches that are too long without a safe cut are re-encoded
//! without loss.
//!
//! Every segment is decoded once beside the cutting, before it is handed on ([`Inspection`]). One that is
//! damaged, or that changes its size or colours, is replaced by a re-encoded one in which every frame has a
//! picture. So the workers find only segments that they can use, and what was done is known with each
//! segment.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::thread;

use super::MediaError;
use super::index::VideoIndex;
use super::inspect::Inspection;
use super::packets::PacketWriter;
use super::pieces::{self, CutLimits, Piece};
use super::reencode::Stretch;
use super::scanner::{Scanned, Scanner};
use super::segment::{Emit, SegmentFile, segment_path};
use crate::frame::PictureFormat;

/// Cuts the video track that `index` describes into segment files in `out_dir`, which must exist, as far as
/// the first `frames` source frames need. The PTS in the segments are those of the source. Each segment is
/// handed to `emit`, in order, as soon as it is complete and checked; `emit` may move or delete the file.
/// `keep_on` is asked before each packet, and ends the cut with its error.
///
/// # Errors
/// [`MediaError::BadInput`] if most of the frames cannot be decoded. Segments may have been handed on before.
pub fn cut_segments(
    index: &VideoIndex,
    picture: &PictureFormat,
    frames: u64,
    out_dir: &Path,
    limits: CutLimits,
    keep_on: &dyn Fn() -> io::Result<()>,
    emit: &mut dyn FnMut(SegmentFile) -> io::Result<()>,
) -> Result<(), MediaError> {
    let mut emit = |segment: SegmentFile| {
        let path = segment.path.clone();
        emit(segment).map_err(MediaError::io("store", &path))
    };
    let shown = index.pts.len() as u64;
    thread::scope(|scope| {
        let mut copy = CopyPass {
            index,
            out_dir,
            keep_on,
            part_frames: limits.target_frames.max(1),
            scanner: Scanner::open(&index.path, index.codec)?,
            inspection: Inspection::new(scope, index, picture, frames.min(shown), out_dir),
        };
        for piece in pieces::split(&index.cuts, index.packets, shown, frames, limits) {
            copy.skip_to(piece.packets.start)?;
            if piece.reencode {
                copy.reencode(&piece, &mut emit)?;
            } else {
                copy.copy(&piece, &mut emit)?;
            }
        }
        copy.inspection.finish(&mut emit)
    })
}

/// The state of one pass over the source file.
struct CopyPass<'a, 'scope> {
    index: &'a VideoIndex,
    out_dir: &'a Path,
    keep_on: &'a dyn Fn() -> io::Result<()>,
    part_frames: u64,
    scanner: Scanner,
    inspection: Inspection<'a, 'scope>,
}

impl CopyPass<'_, '_> {
    fn skip_to(&mut self, packet: u64) -> Result<(), MediaError> {
        while self.scanner.number < packet {
            next(&mut self.scanner, self.index, self.keep_on)?;
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
            let packet = next(&mut self.scanner, self.index, self.keep_on)?;
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
        let segment = SegmentFile {
            path,
            first: piece.shown.start,
            frames: piece.shown.end - piece.shown.start,
            reencoded: false,
            defects: Vec::new(),
        };
        self.inspection.check(segment, emit)
    }

    fn reencode(&mut self, piece: &Piece, emit: Emit) -> Result<(), MediaError> {
        let stretch = Stretch {
            index: self.index,
            out_dir: self.out_dir,
            first: piece.shown.start,
            pts: self
                .index
                .pts_of(piece.shown.start, piece.shown.end - piece.shown.start),
            part_frames: self.part_frames,
            reencoded: true,
        };
        let header = self.index.header_at(piece.packets.start);
        let mut reencoder = self.inspection.reencode(stretch, &header, emit)?;
        for _ in piece.packets.clone() {
            let packet = next(&mut self.scanner, self.index, self.keep_on)?;
            reencoder.push(packet.pts, packet.key, packet.data, emit)?;
        }
        reencoder.finish(emit)
    }
}

/// Reads the next packet of the track. There must be one, because the index counted it.
fn next<'s>(
    scanner: &'s mut Scanner,
    index: &VideoIndex,
    keep_on: &dyn Fn() -> io::Result<()>,
) -> Result<Scanned<'s>, MediaError> {
    keep_on().map_err(MediaError::io("go on with", &index.path))?;
    scanner.next()?.ok_or_else(|| changed(&index.path))
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
