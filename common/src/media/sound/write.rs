//! Writes the sound of the output to a file of its own, in the output's container. The join copies its packets.

use std::fs::File;
use std::path::{Path, PathBuf};

use ffmpeg_next::codec::Parameters;
use ffmpeg_next::format::context;
use ffmpeg_next::{Packet, Rational};
use tempfile::TempPath;

use super::copy::{CopiedTrack, PacketCopier};
use crate::media::MediaError;
use crate::media::container::{self, Container};
use crate::media::{mux, verify};

/// The end of the video is not known yet; no sound has so many samples.
const NO_LIMIT: i64 = i64::MAX / 4;

/// Copied packets must last as long as the samples that were decoded from them, to within this.
const SLACK_MS: u64 = 50;

/// A file with one audio track that is being written.
pub(super) struct SoundWriter {
    output: context::Output,
    path: PathBuf,
    time_base: Rational,
}

impl SoundWriter {
    pub(super) fn create(
        path: &Path,
        container: Container,
        parameters: Parameters,
        time_base: Rational,
    ) -> Result<Self, MediaError> {
        let mut output = container::create_output(path, container.muxer())?;
        mux::add_track(&mut output, path, parameters, time_base, None)?;
        output
            .write_header_with(mux::options(container, time_base))
            .map_err(MediaError::ffmpeg("write", path))?;
        let path = path.to_owned();
        Ok(Self {
            output,
            path,
            time_base,
        })
    }

    pub(super) fn write(&mut self, packet: Packet) -> Result<(), MediaError> {
        mux::write(&mut self.output, packet, 0, self.time_base, &self.path)
    }

    pub(super) fn finish(mut self) -> Result<(), MediaError> {
        let ended = self.output.write_trailer();
        ended.map_err(MediaError::ffmpeg("write", &self.path))
    }
}

/// The packets of the track as a file, while they are decoded.
pub(super) struct CopyWriter {
    copier: PacketCopier,
    writer: SoundWriter,
    path: TempPath,
}

impl CopyWriter {
    pub(super) fn create(
        track: CopiedTrack,
        container: Container,
        scratch: &Path,
    ) -> Result<Self, MediaError> {
        let path = tempfile::NamedTempFile::new_in(scratch)
            .map_err(MediaError::io("make a scratch file in", scratch))?
            .into_temp_path();
        let copier = PacketCopier::new(track, NO_LIMIT, container);
        let writer = SoundWriter::create(&path, container, copier.parameters(), copier.time_base())?;
        Ok(Self { copier, writer, path })
    }

    pub(super) fn write(&mut self, packet: &Packet) -> Result<(), MediaError> {
        match self.copier.copy(packet) {
            Some(copy) => self.writer.write(copy),
            None => Ok(()),
        }
    }

    /// Ends the file, checks that it presents `wanted_ms` of sound, and returns it. It has no name any more, so that it
    /// disappears with the process.
    pub(super) fn finish(self, wanted_ms: u64) -> Result<File, MediaError> {
        self.writer.finish()?;
        let found_ms = verify::sound_ms(&self.path)?;
        if found_ms.abs_diff(wanted_ms) > SLACK_MS {
            let cause = format!("they last {found_ms} ms, their samples {wanted_ms} ms");
            return Err(MediaError::rejected(&self.path, cause));
        }
        File::open(&self.path).map_err(MediaError::io("read", &self.path))
    }
}
