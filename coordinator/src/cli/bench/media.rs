//! Measures decoding, encoding and stitching with the code that workers and the coordinator use. The
//! functions block.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use latentfarm_common::digest::Digest;
use latentfarm_common::error::FileError;
use latentfarm_common::frame::{Colour, Picture, PictureFormat};
use latentfarm_common::media::{
    self, AudioLength, AudioOffset, FrameReader, SegmentEncoder, SoundOrigin, SoundRequest, TrackChoice,
};
use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::time::{FrameRange, FrameRate};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{EncoderSpec, SourceSpec};
use latentfarm_common::wire::media::LocalSlice;

use super::figures::{MediaFigures, StitchFigures, Throughput};
use crate::ingest::SEGMENT_LIMITS;
use crate::stitch::{self, OutputTarget, StitchRequest, StitchStep};

/// Frames of a segment, as many as a chunk has by default.
const SEGMENT_FRAMES: u64 = 48;
const SOUND_RATE_HZ: u32 = 16_000;

/// The source of the pictures that are encoded.
enum Pictures {
    /// Frames of a file, each decoded when it is needed.
    Clip(Box<FrameReader>),
    TestPattern,
}

/// Measures at most `seconds` of `video`, or of a test pattern. An error that wraps
/// [`media::MediaError::BadInput`] means that the video is unusable.
pub(super) fn measure(
    video: Option<&Path>,
    seconds: u32,
    folder: &Path,
    shutdown: &Shutdown,
) -> anyhow::Result<MediaFigures> {
    media::init();
    let wanted = |rate: FrameRate| rate.frames_covering(u64::from(seconds), 1);
    let (mut pictures, source, format, rate, frames) = if let Some(path) = video {
        let probe = media::probe_video(path)?;
        let rate = probe.average_rate.unwrap_or(FrameRate::FPS_25);
        let (reader, frames) = open_clip(path, wanted(rate), folder)?;
        let source = path.display().to_string();
        (Pictures::Clip(reader), source, probe.picture, rate, frames)
    } else {
        let (source, rate) = ("test pattern".to_owned(), FrameRate::FPS_25);
        (
            Pictures::TestPattern,
            source,
            test_pattern_format(),
            rate,
            wanted(rate),
        )
    };
    let spec = EncoderSpec {
        rate,
        crf: Some(18),
        preset: "medium".to_owned(),
    };
    let mut decode = Duration::ZERO;
    let mut encode = Duration::ZERO;
    let mut segments = Vec::new();
    for start in (0..frames).step_by(usize::try_from(SEGMENT_FRAMES).unwrap_or(48)) {
        let range = FrameRange::new(start, (start + SEGMENT_FRAMES).min(frames));
        let path = folder.join(format!("{start}.nut"));
        let mut encoder = timed(&mut encode, || {
            SegmentEncoder::create(&path, &format, &spec, start)
        })?;
        for frame in range.frames() {
            ensure!(shutdown.is_running(), "stopped on request");
            let picture = match &mut pictures {
                Pictures::Clip(reader) => timed(&mut decode, || reader.frame(frame))?,
                Pictures::TestPattern => test_pattern(format, frame),
            };
            timed(&mut encode, || encoder.push(&picture))?;
        }
        timed(&mut encode, || encoder.finish())?;
        let (digest, bytes) = Digest::of_file(&path).map_err(FileError::at("read", &path))?;
        segments.push((range, path, BlobRef { digest, bytes }));
    }
    let output = folder.join("stitched.mkv");
    let stitch = stitch(folder, &format, rate, frames, segments, &output)?;
    if matches!(pictures, Pictures::TestPattern) {
        let (mut reader, _) = open_clip(&output, frames, folder)?;
        for frame in 0..frames {
            ensure!(shutdown.is_running(), "stopped on request");
            timed(&mut decode, || reader.frame(frame))?;
        }
    }
    let rate_of = |took| Throughput { frames, took };
    Ok(MediaFigures {
        source,
        width: format.width,
        height: format.height,
        decode: rate_of(decode),
        encode: rate_of(encode),
        stitch,
    })
}

/// Cuts the first `wanted` frames of a file into segments as ingest does. Returns their reader and the number
/// of frames.
fn open_clip(path: &Path, wanted: u64, folder: &Path) -> anyhow::Result<(Box<FrameReader>, u64)> {
    let probe = media::probe_video(path)?;
    let index = media::index_video(path, &probe, &mut |_| {})?;
    let frames = wanted.min(index.pts.len() as u64);
    let cut = folder.join("source");
    std::fs::create_dir(&cut).map_err(FileError::at("create", &cut))?;
    let mut slices = Vec::new();
    media::cut_segments(
        &index,
        &probe.picture,
        frames,
        &cut,
        SEGMENT_LIMITS,
        &|| Ok(()),
        &mut |segment| {
            let first = usize::try_from(segment.first).map_err(io::Error::other)?;
            let count = usize::try_from(segment.frames).map_err(io::Error::other)?;
            slices.push(LocalSlice {
                path: segment.path.display().to_string(),
                first: segment.first,
                pts: index.pts[first..first + count].to_vec(),
            });
            Ok(())
        },
    )?;
    let source = SourceSpec {
        picture: probe.picture,
        time_base: probe.time_base,
        frames,
    };
    Ok((Box::new(FrameReader::new(slices, &source)), frames))
}

fn stitch(
    folder: &Path,
    format: &PictureFormat,
    rate: FrameRate,
    frames: u64,
    segments: Vec<(FrameRange, PathBuf, BlobRef)>,
    output: &Path,
) -> anyhow::Result<StitchFigures> {
    let audio = folder.join("silence.wav");
    let samples = frames * u64::from(SOUND_RATE_HZ) * u64::from(rate.den()) / u64::from(rate.num());
    write_silence(&audio, samples).map_err(FileError::at("write", &audio))?;
    let target = OutputTarget::check(output, &[], true).context("cannot write the stitched file")?;
    let mut decoded = media::decode_sound(&SoundRequest {
        path: &audio,
        track: &TrackChoice::Default,
        origin: SoundOrigin::Container,
        offset: AudioOffset::default(),
        container: target.container(),
        exact: false,
        scratch: folder,
    })?;
    let sound = folder.join("sound");
    decoded.write(&sound, frames, rate)?;
    let (digest, bytes) = Digest::of_file(&sound).map_err(FileError::at("read", &sound))?;
    let count = segments.len();
    let request = StitchRequest {
        segments,
        picture: *format,
        rate,
        frames,
        sound: (sound, BlobRef { digest, bytes }),
        audio_length: AudioLength::LikeVideo,
        lossless: None,
        metadata: Vec::new(),
        output: target,
    };
    let started = Instant::now();
    let (mut checked, mut joined) = (started, started);
    let assembled = stitch::assemble(&request, &mut |step| match step {
        StitchStep::Checked { .. } => checked = Instant::now(),
        StitchStep::Joined { .. } => {}
        StitchStep::Verifying => joined = Instant::now(),
    });
    let assembled = assembled.context("cannot stitch the segments")?;
    let verified = Instant::now();
    assembled.commit().context("cannot stitch the segments")?;
    let named = verified.elapsed();

    let copied = output.with_extension("copy");
    let copying = Instant::now();
    let bytes = std::fs::copy(output, &copied)
        .and_then(|bytes| File::open(&copied)?.sync_all().map(|()| bytes))
        .map_err(FileError::at("copy", output))?;
    Ok(StitchFigures {
        segments: count,
        bytes,
        join: joined - checked + named,
        check: (checked - started) + (verified - joined),
        copy: copying.elapsed(),
    })
}

/// Runs `work` and adds the time that it takes to `total`.
fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *total += started.elapsed();
    result
}

fn test_pattern_format() -> PictureFormat {
    PictureFormat {
        width: 1280,
        height: 720,
        colour: Colour::BT709,
        sample_aspect: (1, 1),
    }
}

/// Draws a still, rough texture with a smooth disc that moves over it: some work for motion search and some
/// detail to encode, as in a talking head.
fn test_pattern(format: PictureFormat, frame: u64) -> Picture {
    let mut picture = Picture::black(format);
    let (width, height) = (format.width as usize, format.height as usize);
    let shift = usize::try_from(frame % 200).unwrap_or(0);
    let (centre_x, centre_y, radius) = (width / 3 + 2 * shift, height / 2 + shift % 40, height / 4);
    for (at, luma) in picture.y.iter_mut().enumerate() {
        let (x, y) = (at % width, at / width);
        let inside = x.abs_diff(centre_x).pow(2) + y.abs_diff(centre_y).pow(2) < radius * radius;
        let value = if inside {
            120 + (x + y - shift) / 8 % 64
        } else {
            60 + (x * 7 + y * 13 + (x * y) % 61) % 48
        };
        *luma = u8::try_from(value).unwrap_or(u8::MAX);
    }
    let half = width / 2;
    for (at, (u, v)) in picture.u.iter_mut().zip(&mut picture.v).enumerate() {
        *u = u8::try_from(100 + at % half * 56 / half).unwrap_or(128);
        *v = u8::try_from(100 + at / half * 56 / (height / 2)).unwrap_or(128);
    }
    picture
}

/// Writes a WAV file of 16-bit mono silence.
fn write_silence(path: &Path, samples: u64) -> io::Result<()> {
    let data = u32::try_from(samples * 2).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(44 + data as usize);
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + data).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt ");
    bytes.extend_from_slice(&16_u32.to_le_bytes());
    // Format 1 (PCM) and one channel; below, two bytes a frame and 16 bits a sample.
    bytes.extend_from_slice(&[1, 0, 1, 0]);
    bytes.extend_from_slice(&SOUND_RATE_HZ.to_le_bytes());
    bytes.extend_from_slice(&(SOUND_RATE_HZ * 2).to_le_bytes());
    bytes.extend_from_slice(&[2, 0, 16, 0]);
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&data.to_le_bytes());
    bytes.resize(44 + data as usize, 0);
    std::fs::write(path, bytes)
}
