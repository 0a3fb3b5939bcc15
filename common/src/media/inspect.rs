//! Checks the segments of a video while it is cut, several at a time, and replaces those that a worker could
//! not use.

use std::collections::VecDeque;
use std::path::Path;
use std::thread::{self, Scope, ScopedJoinHandle};

use super::MediaError;
use super::check::{Findings, check_segment};
use super::index::VideoIndex;
use super::packets::{PacketReader, StreamHeader};
use super::reencode::{Reencoder, Stretch};
use super::restore::Restoration;
use super::segment::{Emit, SegmentFile};
use crate::frame::PictureFormat;

/// The memory that all decoders of the check may take together.
const MEMORY_BYTES: u64 = 256 << 20;
/// Number of pictures that a decoder holds at most, with those that it hands out.
const PICTURES_HELD: u64 = 24;
/// More threads than this would wait for the cutting.
const MAX_THREADS: u64 = 8;

/// The segments that are being checked, in order, and the state that passes from one to the next.
pub(super) struct Inspection<'a, 'scope> {
    scope: &'scope Scope<'scope, 'a>,
    index: &'a VideoIndex,
    out_dir: &'a Path,
    restoration: Restoration<'a>,
    threads: usize,
    checks: VecDeque<(
        SegmentFile,
        ScopedJoinHandle<'scope, Result<Findings, MediaError>>,
    )>,
}

impl<'a, 'scope> Inspection<'a, 'scope> {
    /// Begins with a video of which the first `wanted` frames are needed.
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'a>,
        index: &'a VideoIndex,
        format: &'a PictureFormat,
        wanted: u64,
        out_dir: &'a Path,
    ) -> Self {
        let picture_bytes = u64::from(format.width) * u64::from(format.height) * 3 / 2;
        let fitting = MEMORY_BYTES / (picture_bytes * PICTURES_HELD).max(1);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = fitting.clamp(1, MAX_THREADS);
        Self {
            scope,
            index,
            out_dir,
            restoration: Restoration::new(index, format, wanted),
            threads: usize::try_from(threads).unwrap_or(1).min(cores),
            checks: VecDeque::new(),
        }
    }

    /// Starts to check a segment that was copied from the file; it is handed to `emit` later.
    pub(super) fn check(&mut self, segment: SegmentFile, emit: Emit) -> Result<(), MediaError> {
        if self.checks.len() == self.threads {
            self.settle_first(emit)?;
        }
        let (index, format) = (self.index, self.restoration.format);
        let SegmentFile {
            path, first, frames, ..
        } = segment.clone();
        let check = thread::Builder::new()
            .name("check segment".to_owned())
            .spawn_scoped(self.scope, move || {
                check_segment(&path, index, first, frames, format)
            })
            .map_err(MediaError::io("start a thread to check", &segment.path))?;
        self.checks.push_back((segment, check));
        Ok(())
    }

    /// Begins to re-encode a stretch that follows the segments so far.
    pub(super) fn reencode<'r>(
        &'r mut self,
        stretch: Stretch<'a>,
        header: &StreamHeader,
        emit: Emit,
    ) -> Result<Reencoder<'a, 'r>, MediaError> {
        while !self.checks.is_empty() {
            self.settle_first(emit)?;
        }
        Reencoder::start(stretch, header, &mut self.restoration)
    }

    /// Waits for all checks.
    ///
    /// # Errors
    /// [`MediaError::BadInput`] if too little of the video is undamaged.
    pub(super) fn finish(mut self, emit: Emit) -> Result<(), MediaError> {
        while !self.checks.is_empty() {
            self.settle_first(emit)?;
        }
        self.restoration.finish()
    }

    /// Waits for the check of the first segment, replaces the segment if it is not usable, and hands it on.
    fn settle_first(&mut self, emit: Emit) -> Result<(), MediaError> {
        let Some((segment, check)) = self.checks.pop_front() else {
            return Ok(());
        };
        let findings = check.join().unwrap_or_else(|_panic| {
            Err(self.index.refusal(segment.first, "the check of its video failed"))
        })?;
        let fits = |restoration: &mut Restoration| {
            let mut looks = findings.looks.iter();
            looks.all(|look| *look == restoration.form(*look))
        };
        if findings.is_sound && fits(&mut self.restoration) {
            self.restoration
                .pass(segment.first, segment.frames, findings.last);
            return emit(segment);
        }
        self.replace(&segment, emit)
    }

    /// Re-encodes a copied segment, so that each of its frames has a picture of the job's form.
    fn replace(&mut self, segment: &SegmentFile, emit: Emit) -> Result<(), MediaError> {
        let copied = segment.path.with_extension("copied");
        std::fs::rename(&segment.path, &copied).map_err(MediaError::io("rename", &segment.path))?;
        let read = |error| MediaError::io("read", &copied)(error);
        let mut packets = PacketReader::open(&copied).map_err(read)?;
        let stretch = Stretch {
            index: self.index,
            out_dir: self.out_dir,
            first: segment.first,
            pts: self.index.pts_of(segment.first, segment.frames),
            part_frames: segment.frames,
            reencoded: false,
        };
        let mut reencoder = Reencoder::start(stretch, packets.header(), &mut self.restoration)?;
        while let Some(packet) = packets.next().map_err(read)? {
            reencoder.push(packet.pts, packet.key, &packet.data, emit)?;
        }
        reencoder.finish(emit)?;
        std::fs::remove_file(&copied).map_err(MediaError::io("remove", &copied))
    }
}
