//! Finds out what an input file is and whether it can be used; the coordinator does this before it accepts a
//! job. Files are refused here or by the index, with a message that names the cause and, if there is one, the
//! remedy.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Once;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi::AVPixelFormat;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;

use super::MediaError;
use super::error::is_system_error;
use super::ffi::{self, VideoFacts};
use super::remedy;
use crate::frame::{Colour, ColourMatrix, ColourRange, PictureFormat};
use crate::time::{FrameRate, TimeBase};

/// Smallest width and height of a picture that is accepted.
const MIN_SIDE_PX: u32 = 64;
/// Largest width and height; an H.264 level for larger pictures does not exist.
const MAX_SIDE_PX: u32 = 8192;
/// An untagged picture of at least this height is taken for HD.
const HD_LINES: u32 = 720;
/// The nominal frame rate is taken if the average rate is within this share of it: a quarter of the frames
/// may be missing, and rounding may add a thousandth.
const KEPT_SHARE: std::ops::Range<f64> = 0.75..1.001;
/// The value of `AVColorRange` for full range.
const FULL_RANGE: i32 = 2;

/// The codecs of source video that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoCodec {
    /// H.264, also called AVC.
    H264,
    /// H.265, also called HEVC.
    Hevc,
}

impl VideoCodec {
    pub(super) fn id(self) -> ffmpeg::codec::Id {
        match self {
            Self::H264 => ffmpeg::codec::Id::H264,
            Self::Hevc => ffmpeg::codec::Id::HEVC,
        }
    }
}

/// Properties of a video track that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoProbe {
    /// The codec of the video track.
    pub codec: VideoCodec,
    /// The size and colour description of the track's pictures.
    pub picture: PictureFormat,
    /// The unit of the track's timestamps, in seconds.
    pub time_base: TimeBase,
    /// The nominal frame rate if the video nearly keeps it, else the average; `None` if unknown.
    pub average_rate: Option<FrameRate>,
}

/// Initialises FFmpeg and limits its own log to fatal messages, because [`MediaError`] already reports its
/// errors. May be called any number of times.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = ffmpeg::init() {
            tracing::warn!(%error, "cannot initialise FFmpeg");
        }
        ffmpeg::log::set_level(ffmpeg::log::Level::Fatal);
    });
}

/// Probes the video track of `path`, which must be 8-bit 4:2:0 H.264 or HEVC in MP4, MOV or Matroska.
///
/// # Errors
/// [`MediaError::BadInput`] for any other video, and for files that are missing, damaged or truncated.
pub fn probe_video(path: &Path) -> Result<VideoProbe, MediaError> {
    let input = open_input(path)?;
    let stream = video_track(&input, path)?;
    let refuse = |cause: String| Err(MediaError::bad_input(path, cause));

    let facts = ffi::video_facts(&stream);
    let codec = match stream.parameters().id() {
        ffmpeg::codec::Id::H264 => VideoCodec::H264,
        ffmpeg::codec::Id::HEVC => VideoCodec::Hevc,
        other => {
            let remedy = remedy::convert(&facts);
            return refuse(format!(
                "its video is {}, not H.264 or HEVC; {remedy}",
                other.name()
            ));
        }
    };
    refuse_truncated(&input, path)?;
    if facts.width == 0 || facts.pixel < 0 {
        return refuse(
            "no picture of its video track can be decoded: it is empty, encrypted, truncated or damaged; copy or \
             download it again"
                .into(),
        );
    }
    refuse_pictures(&facts, path)?;
    refuse_rotation(&stream, &facts, path)?;
    refuse_container(&input, path)?;
    let base = stream.time_base();
    let (Ok(num @ 1..), Ok(den @ 1..)) = (u32::try_from(base.numerator()), u32::try_from(base.denominator()))
    else {
        return refuse(format!("its video track has the impossible time base {base}"));
    };
    Ok(VideoProbe {
        codec,
        picture: PictureFormat {
            width: facts.width,
            height: facts.height,
            colour: colour(&facts, path)?,
            sample_aspect: sample_aspect(facts.sample_aspect),
        },
        time_base: TimeBase { num, den },
        average_rate: frame_rate(&stream),
    })
}

/// Opens the user's media file and checks that it is a file that can be opened. FFmpeg may open other local
/// files that it refers to, but nothing over a network.
pub(super) fn open_input(path: &Path) -> Result<Input, MediaError> {
    init();
    let refuse = |cause: &str| MediaError::bad_input(path, cause);
    let meta = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => refuse("there is no such file"),
        _ => MediaError::io("read", path)(error),
    })?;
    if meta.is_dir() {
        return Err(refuse("it is a directory, not a media file"));
    }
    if !meta.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    if meta.len() == 0 {
        return Err(refuse("the file is empty"));
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(12).read_to_end(&mut head))
        .map_err(MediaError::io("read", path))?;
    let name = path
        .to_str()
        .ok_or_else(|| refuse("its name is not valid UTF-8; rename it"))?;
    let mut options = ffmpeg::Dictionary::new();
    options.set("protocol_whitelist", "file");
    ffmpeg::format::input_with_dictionary(&format!("file:{name}"), options).map_err(|error| {
        let known = head.get(4..8) == Some(b"ftyp") || head.starts_with(&[0x1a, 0x45, 0xdf, 0xa3]);
        match error {
            _ if is_system_error(error) => MediaError::ffmpeg("open", path)(error),
            _ if known => refuse(
                "the file is truncated or damaged: its index cannot be read; copy or download it again",
            ),
            _ => refuse("it is not a media file that FFmpeg knows"),
        }
    })
}

/// Returns the track to lip-sync: the best video track, if it is not a cover picture.
pub(super) fn video_track<'a>(
    input: &'a Input,
    path: &Path,
) -> Result<ffmpeg::format::stream::Stream<'a>, MediaError> {
    let best = input.streams().best(ffmpeg::media::Type::Video);
    best.filter(|stream| !stream.disposition().contains(Disposition::ATTACHED_PIC))
        .ok_or_else(|| MediaError::bad_input(path, "it has no video track"))
}

/// Returns the best audio track.
pub(super) fn audio_track<'a>(
    input: &'a Input,
    path: &Path,
) -> Result<ffmpeg::format::stream::Stream<'a>, MediaError> {
    let best = input.streams().best(ffmpeg::media::Type::Audio);
    best.ok_or_else(|| MediaError::bad_input(path, "it has no audio track"))
}

/// Refuses a truncated MP4, whose index refers to data past the end of the file.
pub(super) fn refuse_truncated(input: &Input, path: &Path) -> Result<(), MediaError> {
    let Some(size) = input.io_size() else {
        return Ok(());
    };
    match input
        .streams()
        .filter_map(|stream| ffi::indexed_end(&stream))
        .max()
    {
        Some(end) if end > size => {
            let cause = format!(
                "the file is truncated: it has {size} bytes, but its index refers to data up to byte {end}; copy or \
                 download it again"
            );
            Err(MediaError::bad_input(path, cause))
        }
        _ => Ok(()),
    }
}

/// Refuses pictures whose pixel format, size or field order cannot be used.
fn refuse_pictures(facts: &VideoFacts, path: &Path) -> Result<(), MediaError> {
    let refuse = |cause: String| Err(MediaError::bad_input(path, cause));
    let planar = [
        AVPixelFormat::AV_PIX_FMT_YUV420P as i32,
        AVPixelFormat::AV_PIX_FMT_YUVJ420P as i32,
    ];
    let (width, height) = (facts.width, facts.height);
    if width > MAX_SIDE_PX || height > MAX_SIDE_PX {
        return refuse(format!(
            "its pictures are {width}x{height}; each side may have at most {MAX_SIDE_PX} pixels"
        ));
    }
    if width < MIN_SIDE_PX || height < MIN_SIDE_PX {
        return refuse(format!(
            "its pictures are {width}x{height}; each side must have at least {MIN_SIDE_PX} pixels"
        ));
    }
    let remedy = remedy::convert(facts);
    if !planar.contains(&facts.pixel) {
        let name = ffi::pixel_name(facts.pixel);
        return refuse(format!(
            "its pictures are {name}, not 8 bit 4:2:0 (yuv420p); {remedy}"
        ));
    }
    if !width.is_multiple_of(2) || !height.is_multiple_of(2) {
        return refuse(format!(
            "its pictures are {width}x{height}, but width and height must be even; {remedy}"
        ));
    }
    if facts.field_order > 1 {
        return refuse(format!("its video is interlaced; {remedy}"));
    }
    Ok(())
}

/// Refuses containers whose time stamps the index cannot use.
fn refuse_container(input: &Input, path: &Path) -> Result<(), MediaError> {
    let format = input.format();
    let container = format.name();
    if container
        .split(',')
        .any(|name| name == "mp4" || name == "matroska")
    {
        return Ok(());
    }
    // AVI and raw streams have no time stamps that could be copied.
    let remedy = match container {
        "mpegts" | "flv" => remedy::copy(),
        _ => remedy::convert_plain(),
    };
    let cause = format!("its container is {container}, not MP4, MOV or Matroska; {remedy}");
    Err(MediaError::bad_input(path, cause))
}

/// Refuses video with a display matrix that rotates or flips it. Players apply the matrix, but the model
/// would get the pictures as they are stored.
fn refuse_rotation(stream: &ffmpeg::Stream, facts: &VideoFacts, path: &Path) -> Result<(), MediaError> {
    let entry = |data: &[u8], at: usize| {
        let bytes = data
            .get(4 * at..4 * at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, i32::from_ne_bytes)
    };
    let turned = stream
        .side_data()
        .filter(|data| data.kind() == ffmpeg::packet::side_data::Type::DisplayMatrix)
        .any(|data| {
            let at = |at| entry(data.data(), at);
            at(0) <= 0 || at(4) <= 0 || at(1) != 0 || at(3) != 0
        });
    if turned {
        let cause = format!(
            "its pictures are stored rotated or flipped (display matrix); {}",
            remedy::convert(facts)
        );
        return Err(MediaError::bad_input(path, cause));
    }
    Ok(())
}

/// Returns the colour description of the pictures. Pictures without a tag are taken for BT.709 if they have
/// at least 720 lines, and for BT.601 otherwise; the tags themselves are kept unchanged.
fn colour(facts: &VideoFacts, path: &Path) -> Result<Colour, MediaError> {
    let refuse = |what: &str, code: i32| {
        let remedy = remedy::convert(facts);
        let cause = format!("its {what} (code {code}) is not BT.601 or BT.709; {remedy}");
        Err(MediaError::bad_input(path, cause))
    };
    let matrix = match facts.matrix {
        5 | 6 => ColourMatrix::Bt601,
        2 if facts.height < HD_LINES => ColourMatrix::Bt601,
        1 | 2 => ColourMatrix::Bt709,
        other => return refuse("colour matrix", other),
    };
    if facts.primaries == 9 {
        return refuse("set of colour primaries", facts.primaries);
    }
    if matches!(facts.transfer, 14..=18) {
        return refuse("transfer curve", facts.transfer);
    }
    let tag = |code: i32| u8::try_from(code).unwrap_or(2);
    let full = facts.range == FULL_RANGE || facts.pixel == AVPixelFormat::AV_PIX_FMT_YUVJ420P as i32;
    Ok(Colour {
        matrix,
        range: if full {
            ColourRange::Full
        } else {
            ColourRange::Limited
        },
        primaries_tag: tag(facts.primaries),
        transfer_tag: tag(facts.transfer),
        matrix_tag: tag(facts.matrix),
        range_tagged: facts.range != 0,
    })
}

/// Returns the sample aspect ratio, or (1, 1) if the file states none.
fn sample_aspect((num, den): (i32, i32)) -> (u32, u32) {
    match (u32::try_from(num), u32::try_from(den)) {
        (Ok(num @ 1..), Ok(den @ 1..)) => (num, den),
        _ => (1, 1),
    }
}

/// Returns the nominal rate, which the demuxer derives from the spacing of the frames, if the average is near
/// it, else the average.
pub(super) fn frame_rate(stream: &ffmpeg::Stream) -> Option<FrameRate> {
    let rate = |value: ffmpeg::Rational| {
        let (num, den) = (
            u32::try_from(value.numerator()),
            u32::try_from(value.denominator()),
        );
        FrameRate::new(num.ok()?, den.ok()?).ok()
    };
    let average = rate(stream.avg_frame_rate());
    let nominal = rate(stream.rate());
    match (average, nominal) {
        (Some(average), Some(nominal)) => {
            let kept = KEPT_SHARE.contains(&(average.as_f64() / nominal.as_f64()));
            Some(if kept { nominal } else { average })
        }
        (average, nominal) => average.or(nominal),
    }
}
