//! What a file is, and whether it can be used. Everything that is refused is refused here or while indexing,
//! in words that name the cause and, where there is one, the mend.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Once;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi::AVPixelFormat;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;

use super::MediaError;
use super::ffi::{self, VideoFacts};
use crate::frame::{Colour, Matrix, PictureFormat, Range};
use crate::time::{FrameRate, TimeBase};

/// Smallest side of a picture that is taken.
const MIN_SIDE_PX: u32 = 64;
/// Lines from which an untagged picture is taken for HD.
const HD_LINES: u32 = 720;
const FULL_RANGE: i32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoCodec {
    H264,
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

/// A video track that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoProbe {
    pub codec: VideoCodec,
    pub picture: PictureFormat,
    pub time_base: TimeBase,
    /// The nominal rate where the video nearly keeps it, else the average; `None` where unknown.
    pub average_rate: Option<FrameRate>,
}

/// An audio track that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioProbe {
    pub codec_name: String,
    pub rate_hz: u32,
    pub channels: u32,
}

/// Prepares FFmpeg and silences all but its fatal messages: errors reach the user once, from here. Safe to call
/// often.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = ffmpeg::init() {
            tracing::warn!(%error, "cannot initialise FFmpeg");
        }
        ffmpeg::log::set_level(ffmpeg::log::Level::Fatal);
    });
}

/// Looks at the video track of `path`: H.264 or HEVC, 8 bit, 4:2:0, in MP4, MOV or Matroska. All else, and
/// files that are missing, damaged or cut off, is `BadInput`.
pub fn probe_video(path: &Path) -> Result<VideoProbe, MediaError> {
    let input = open_input(path)?;
    let stream = video_stream(&input, path)?;
    let refuse = |cause: String| Err(MediaError::bad_input(path, cause));

    let codec = match stream.parameters().id() {
        ffmpeg::codec::Id::H264 => VideoCodec::H264,
        ffmpeg::codec::Id::HEVC => VideoCodec::Hevc,
        other => {
            return refuse(format!(
                "its video is {}, not H.264 or HEVC; {CONVERT}",
                other.name()
            ));
        }
    };
    let container = input.format().name().to_owned();
    if !container
        .split(',')
        .any(|name| name == "mp4" || name == "matroska")
    {
        return refuse(format!(
            "its container is {container}, not MP4, MOV or Matroska; convert it first: ffmpeg -i IN -c copy OUT.mkv"
        ));
    }
    refuse_cut_off(&input, path)?;

    let facts = ffi::video_facts(&stream);
    if facts.width == 0 || facts.pixel < 0 {
        return refuse(
            "no picture of its video track can be decoded: it is empty, truncated or damaged".into(),
        );
    }
    refuse_pictures(&facts, path)?;
    refuse_rotation(&stream, path)?;
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

/// Looks at the audio track of `path`: anything that FFmpeg decodes.
pub fn probe_audio(path: &Path) -> Result<AudioProbe, MediaError> {
    let input = open_input(path)?;
    let stream = audio_stream(&input, path)?;
    refuse_cut_off(&input, path)?;
    let codec = stream.parameters().id();
    let (rate_hz, channels) = ffi::audio_facts(&stream);
    if ffmpeg::decoder::find(codec).is_none() {
        let cause = format!(
            "its audio is {}, for which this FFmpeg has no decoder",
            codec.name()
        );
        return Err(MediaError::bad_input(path, cause));
    }
    if rate_hz == 0 || channels == 0 {
        let cause = "no sound of its audio track can be decoded: it is empty, truncated or damaged";
        return Err(MediaError::bad_input(path, cause));
    }
    Ok(AudioProbe {
        codec_name: codec.name().to_owned(),
        rate_hz,
        channels,
    })
}

const CONVERT: &str =
    "convert it first: ffmpeg -i IN -c:v libx264 -crf 14 -pix_fmt yuv420p -c:a copy OUT.mp4";

/// Opens a local media file, and nothing that it may refer to elsewhere.
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
            ffmpeg::Error::Other { .. } => MediaError::ffmpeg("open", path)(error),
            _ if known => refuse("the file is truncated: its index is missing; copy or download it again"),
            _ => refuse("it is not a media file that FFmpeg knows"),
        }
    })
}

/// The track to lip-sync: the best video track that is not a cover picture.
pub(super) fn video_stream<'a>(
    input: &'a Input,
    path: &Path,
) -> Result<ffmpeg::format::stream::Stream<'a>, MediaError> {
    let best = input.streams().best(ffmpeg::media::Type::Video);
    best.filter(|stream| !stream.disposition().contains(Disposition::ATTACHED_PIC))
        .ok_or_else(|| MediaError::bad_input(path, "it has no video stream"))
}

pub(super) fn audio_stream<'a>(
    input: &'a Input,
    path: &Path,
) -> Result<ffmpeg::format::stream::Stream<'a>, MediaError> {
    let best = input.streams().best(ffmpeg::media::Type::Audio);
    best.ok_or_else(|| MediaError::bad_input(path, "it has no audio stream"))
}

/// An MP4 whose index points past the end of the file was cut off.
fn refuse_cut_off(input: &Input, path: &Path) -> Result<(), MediaError> {
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
                "the file is truncated: it has {size} bytes, its index names data up to byte {end}; copy or \
                 download it again"
            );
            Err(MediaError::bad_input(path, cause))
        }
        _ => Ok(()),
    }
}

fn refuse_pictures(facts: &VideoFacts, path: &Path) -> Result<(), MediaError> {
    let refuse = |cause: String| Err(MediaError::bad_input(path, cause));
    let planar = [
        AVPixelFormat::AV_PIX_FMT_YUV420P as i32,
        AVPixelFormat::AV_PIX_FMT_YUVJ420P as i32,
    ];
    if !planar.contains(&facts.pixel) {
        let name = ffi::pixel_name(facts.pixel);
        return refuse(format!(
            "its pictures are {name}, not 8 bit 4:2:0 (yuv420p); {CONVERT}"
        ));
    }
    let (width, height) = (facts.width, facts.height);
    if !width.is_multiple_of(2) || !height.is_multiple_of(2) {
        return refuse(format!(
            "its pictures are {width}x{height}; both must be even; crop it first: ffmpeg -i IN -vf \
             crop=trunc(iw/2)*2:trunc(ih/2)*2 -c:v libx264 -crf 14 -c:a copy OUT.mp4"
        ));
    }
    if width < MIN_SIDE_PX || height < MIN_SIDE_PX {
        return refuse(format!(
            "its pictures are {width}x{height}; each side must have at least {MIN_SIDE_PX} pixels"
        ));
    }
    if facts.field_order > 1 {
        return refuse(
            "its video is interlaced; convert it first: ffmpeg -i IN -vf bwdif -c:v libx264 -crf 14 -c:a copy \
             OUT.mp4"
                .into(),
        );
    }
    Ok(())
}

/// Players turn or flip the picture as the display matrix says; the model would see it as it is stored.
fn refuse_rotation(stream: &ffmpeg::Stream, path: &Path) -> Result<(), MediaError> {
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
        let cause = "its pictures are stored turned or flipped (display matrix); turn them first: ffmpeg -i IN \
                     -c:v libx264 -crf 14 -c:a copy OUT.mp4";
        return Err(MediaError::bad_input(path, cause));
    }
    Ok(())
}

/// BT.709 or BT.601 as tagged; untagged pictures of 720 lines and more are taken for BT.709, smaller ones for
/// BT.601. The tags themselves are kept as they came.
fn colour(facts: &VideoFacts, path: &Path) -> Result<Colour, MediaError> {
    let refuse = |what: &str, code: i32| {
        let cause = format!("its {what} (code {code}) is not BT.601 or BT.709; {CONVERT}");
        Err(MediaError::bad_input(path, cause))
    };
    let matrix = match facts.matrix {
        5 | 6 => Matrix::Bt601,
        2 if facts.height < HD_LINES => Matrix::Bt601,
        1 | 2 => Matrix::Bt709,
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
        range: if full { Range::Full } else { Range::Limited },
        primaries_tag: tag(facts.primaries),
        transfer_tag: tag(facts.transfer),
        matrix_tag: tag(facts.matrix),
        range_tagged: facts.range != 0,
    })
}

fn sample_aspect((num, den): (i32, i32)) -> (u32, u32) {
    match (u32::try_from(num), u32::try_from(den)) {
        (Ok(num @ 1..), Ok(den @ 1..)) => (num, den),
        _ => (1, 1),
    }
}

/// The nominal rate, which the container's reader works out from the spacing of the frames, unless the average says
/// that it is not nearly kept; then the average.
fn frame_rate(stream: &ffmpeg::Stream) -> Option<FrameRate> {
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
            let kept = (0.75..1.001).contains(&(average.as_f64() / nominal.as_f64()));
            Some(if kept { nominal } else { average })
        }
        (average, nominal) => average.or(nominal),
    }
}
