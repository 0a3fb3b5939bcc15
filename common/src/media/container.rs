//! Opening and creating media files, and small FFmpeg helpers that the encoder, the joiner and the verifier
//! share. Encoded segments are NUT files, whose timestamps are exact and may start anywhere; final files are
//! MP4 or Matroska.

use std::fs::File;
use std::path::Path;

use ffmpeg_next::codec::context::Context;
use ffmpeg_next::codec::packet::side_data;
use ffmpeg_next::codec::{self, Parameters};
use ffmpeg_next::format::{self, context};
use ffmpeg_next::packet::Mut;
use ffmpeg_next::{Dictionary, Error, Packet, Rational, decoder, ffi};

use super::{MediaError, init};
use crate::time::FrameRate;

/// FFmpeg's name of the muxer for encoded segments.
pub(super) const SEGMENT_MUXER: &str = "nut";

/// The container of the final file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// MP4, with the extension `mp4`.
    Mp4,
    /// Matroska, with the extension `mkv`.
    Matroska,
}

impl Container {
    /// Chooses the container by the extension of `path`, `mp4` or `mkv` in upper or lower case; `None` for
    /// any other.
    pub fn from_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "mp4" => Some(Self::Mp4),
            "mkv" => Some(Self::Matroska),
            _ => None,
        }
    }

    /// Returns the usual file extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Matroska => "mkv",
        }
    }

    pub(super) fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Matroska => "matroska",
        }
    }
}

/// Returns the URL of a local file. FFmpeg takes URLs, and would read the start of `a:b.mp4` as a protocol.
fn file_url(path: &Path) -> Result<String, MediaError> {
    match path.to_str() {
        Some(text) if !text.contains('\0') => Ok(format!("file:{text}")),
        _ => Err(MediaError::bad_input(
            path,
            "the path is not valid UTF-8: rename the file",
        )),
    }
}

/// Opens a local media file for reading. FFmpeg may open other local files that it refers to, but nothing
/// over a network.
pub(super) fn open_input(path: &Path) -> Result<context::Input, MediaError> {
    open_with(path, &[("protocol_whitelist", "file")])
}

/// Opens a segment without analysing its pictures. Packets, time base, picture size and codec header are
/// exact; other parameters may be missing.
pub(super) fn open_segment_quickly(path: &Path) -> Result<context::Input, MediaError> {
    open_with(
        path,
        &[
            ("protocol_whitelist", "file"),
            ("probesize", "32"),
            ("analyzeduration", "0"),
        ],
    )
}

fn open_with(path: &Path, options: &[(&str, &str)]) -> Result<context::Input, MediaError> {
    init();
    // FFmpeg reports a missing file like a damaged one.
    File::open(path).map_err(MediaError::io("open", path))?;
    let url = file_url(path)?;
    format::input_with_dictionary(&url, options.iter().collect()).map_err(MediaError::ffmpeg("read", path))
}

/// Creates a media file, and replaces an existing one.
pub(super) fn create_output(path: &Path, muxer: &str) -> Result<context::Output, MediaError> {
    init();
    File::create(path).map_err(MediaError::io("create", path))?;
    format::output_as(&file_url(path)?, muxer).map_err(MediaError::ffmpeg("create", path))
}

/// Returns the options for every muxer. They forbid shifted timestamps and random identifiers, so that equal
/// packets give equal files.
pub(super) fn muxer_options() -> Dictionary<'static> {
    [("avoid_negative_ts", "disabled"), ("fflags", "+bitexact")]
        .iter()
        .collect()
}

/// Opens the decoder of an audio track.
pub(super) fn audio_decoder(
    parameters: Parameters,
    time_base: Rational,
    path: &Path,
) -> Result<decoder::Audio, MediaError> {
    let open = || {
        let mut opening = Context::from_parameters(parameters)?.decoder();
        opening.set_packet_time_base(time_base);
        opening.audio()
    };
    open().map_err(MediaError::ffmpeg("open the audio decoder of", path))
}

/// Reads the next packet of one track; returns `None` at the end of the file.
pub(super) fn read_packet_of(
    track: usize,
    input: &mut context::Input,
    path: &Path,
) -> Result<Option<Packet>, MediaError> {
    loop {
        match read_packet(input, path)? {
            Some(packet) if packet.stream() != track => {}
            packet => return Ok(packet),
        }
    }
}

/// Reads the next packet of any track; returns `None` at the end of the file.
pub(super) fn read_packet(input: &mut context::Input, path: &Path) -> Result<Option<Packet>, MediaError> {
    let mut packet = Packet::empty();
    match packet.read(input) {
        Ok(()) => Ok(Some(packet)),
        Err(Error::Eof) => Ok(None),
        Err(error) => Err(MediaError::ffmpeg("read", path)(error)),
    }
}

/// Whether the error only means that the codec needs more input (EAGAIN) or has ended (EOF).
pub(super) fn is_again_or_eof(error: Error) -> bool {
    error == Error::Eof
        || error
            == Error::Other {
                errno: ffmpeg_next::error::EAGAIN,
            }
}

/// Converts a frame rate to FFmpeg's rational; fails if it does not fit.
pub(super) fn rate_rational(rate: FrameRate, path: &Path) -> Result<Rational, MediaError> {
    match (i32::try_from(rate.num()), i32::try_from(rate.den())) {
        (Ok(num), Ok(den)) => Ok(Rational(num, den)),
        _ => Err(MediaError::rejected(
            path,
            format!("no container can hold {rate} frames per second"),
        )),
    }
}

/// Returns the number of the frame at timestamp `pts`, or `None` if the timestamp is negative or not exactly
/// on the grid of frames.
pub(super) fn frame_number(pts: i64, time_base: Rational, rate: Rational) -> Option<u64> {
    let scaled = i128::from(pts) * i128::from(time_base.0) * i128::from(rate.0);
    let unit = i128::from(time_base.1) * i128::from(rate.1);
    if unit == 0 || scaled % unit != 0 {
        return None;
    }
    u64::try_from(scaled / unit).ok()
}

/// Returns the numbers of samples that a decoder drops from the start and from the end of an audio packet.
pub(super) fn discarded_samples(packet: &Packet) -> (u32, u32) {
    let word = |data: &[u8], at: usize| {
        data.get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    packet
        .side_data()
        .find(|side| side.kind() == side_data::Type::SkipSamples)
        .map_or((0, 0), |side| (word(side.data(), 0), word(side.data(), 4)))
}

/// Marks the last `samples` samples of an audio packet, so that the decoder drops them.
pub(super) fn discard_at_end(packet: &mut Packet, samples: i64) {
    const BYTES: usize = 10;
    let Ok(samples) = u32::try_from(samples) else {
        return;
    };
    let mut mark = [0_u8; BYTES];
    mark[4..8].copy_from_slice(&samples.to_le_bytes());
    #[expect(unsafe_code, reason = "the binding only reads side data")]
    // SAFETY: the packet is valid and borrowed mutably; FFmpeg returns null or `BYTES` writable bytes that it
    // attached to the packet.
    unsafe {
        let kind = ffi::AVPacketSideDataType::AV_PKT_DATA_SKIP_SAMPLES;
        let target = ffi::av_packet_new_side_data(packet.as_mut_ptr(), kind, BYTES);
        if !target.is_null() {
            std::ptr::copy_nonoverlapping(mark.as_ptr(), target, BYTES);
        }
    }
}

/// Returns the number of samples in an audio packet of `bytes` bytes if it follows from the codec's
/// parameters alone, else 0.
pub(super) fn audio_duration(parameters: &Parameters, bytes: usize) -> i64 {
    let Ok(bytes) = i32::try_from(bytes) else { return 0 };
    #[expect(unsafe_code, reason = "the binding does not wrap this function")]
    // SAFETY: FFmpeg only reads the parameters, which are valid; its signature lacks a `const`.
    let samples = unsafe { ffi::av_get_audio_frame_duration2(parameters.as_ptr().cast_mut(), bytes) };
    i64::from(samples.max(0))
}

/// Flushes a finished file to the disk.
pub(super) fn sync_file(path: &Path) -> Result<(), MediaError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(MediaError::io("flush to disk", path))
}

/// Copies a track's parameters without the codec tag, which belongs to the container that they came from, so
/// that any muxer takes them. `initial_padding`, in samples, replaces that of the source.
pub(super) fn portable_parameters(parameters: &Parameters, initial_padding: Option<u32>) -> Parameters {
    let mut copy = codec::Parameters::new();
    copy.clone_from(parameters);
    #[expect(unsafe_code, reason = "the binding has no setters for these fields")]
    // SAFETY: `copy` was just allocated by FFmpeg and is owned here.
    unsafe {
        let raw = copy.as_mut_ptr();
        (*raw).codec_tag = 0;
        if let Some(samples) = initial_padding.and_then(|samples| i32::try_from(samples).ok()) {
            (*raw).initial_padding = samples;
        }
    }
    copy
}
