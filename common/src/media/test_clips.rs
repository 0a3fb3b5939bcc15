//! Synthetic pictures, segments and sounds for the tests of encoder, joiner and verifier.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::SegmentEncoder;
use crate::frame::{Colour, FrameHash, Picture, PictureFormat};
use crate::time::{FrameRange, FrameRate};
use crate::wire::job::EncoderSpec;

pub(super) fn format() -> PictureFormat {
    PictureFormat {
        width: 96,
        height: 64,
        colour: Colour::BT709,
        sample_aspect: (1, 1),
    }
}

pub(super) fn spec(rate: &str, crf: Option<u8>) -> EncoderSpec {
    EncoderSpec {
        rate: rate.parse().unwrap(),
        crf,
        preset: "veryfast".to_owned(),
    }
}

pub(super) fn rate(text: &str) -> FrameRate {
    text.parse().unwrap()
}

/// Makes frame `index` of a moving pattern with some noise and a cut every 37 frames.
pub(super) fn picture(format: &PictureFormat, index: u64) -> Picture {
    let (width, height) = (format.width as usize, format.height as usize);
    let at = usize::try_from(index).unwrap();
    let plane = |width: usize, height: usize, salt: usize| {
        (0..width * height)
            .map(|i| {
                let (x, y) = (i % width, i / width);
                let noise = (x * 7919 + y * 104_729 + at * 1_299_709 + salt) % 13;
                u8::try_from(16 + (x * 2 + y * 3 + at * 5 + (at / 37) * 90 + noise + salt) % 200).unwrap()
            })
            .collect()
    };
    Picture {
        format: *format,
        y: plane(width, height, 0),
        u: plane(width / 2, height / 2, 50),
        v: plane(width / 2, height / 2, 99),
    }
}

pub(super) fn encode(
    path: &Path,
    format: &PictureFormat,
    spec: &EncoderSpec,
    range: FrameRange,
) -> Vec<FrameHash> {
    let mut encoder = SegmentEncoder::create(path, format, spec, range.start).unwrap();
    let mut hashes = Vec::new();
    for index in range.frames() {
        let picture = picture(format, index);
        hashes.push(picture.hash());
        encoder.push(&picture).unwrap();
    }
    assert_eq!(encoder.finish().unwrap(), range.len());
    hashes
}

/// Encodes segments over `0..last bound`, cut at `bounds`; returns their paths and the hashes of all frames.
pub(super) fn segments(dir: &Path, spec: &EncoderSpec, bounds: &[u64]) -> (Vec<PathBuf>, Vec<FrameHash>) {
    let mut start = 0;
    let mut hashes = Vec::new();
    let mut paths = Vec::new();
    for &end in bounds {
        let path = dir.join(format!("{start:05}.nut"));
        hashes.extend(encode(&path, &format(), spec, FrameRange::new(start, end)));
        paths.push(path);
        start = end;
    }
    (paths, hashes)
}

/// Runs `ffmpeg` with arguments separated by blanks, in `dir`.
pub(super) fn ffmpeg(dir: &Path, arguments: &str) {
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y"])
        .args(arguments.split_whitespace())
        .current_dir(dir)
        .status()
        .unwrap();
    assert!(status.success(), "ffmpeg {arguments}");
}

/// Makes a sweep with a sharp onset, in which a shift by one sample shows.
pub(super) fn sound(dir: &Path, name: &str, seconds: &str, options: &str) -> PathBuf {
    let sweep = format!(
        "-f lavfi -i aevalsrc=0.6*sin(2*PI*(180+400*t)*t)+0.1*sin(2*PI*3100*t):s=44100:d={seconds} {options} {name}"
    );
    ffmpeg(dir, &sweep);
    dir.join(name)
}

/// Decodes the presented sound of a file to mono at 44.1 kHz.
pub(super) fn decoded(dir: &Path, file: &Path) -> Vec<f32> {
    let raw = dir.join("decoded.raw");
    ffmpeg(
        dir,
        &format!(
            "-i {} -map 0:a:0 -f f32le -ac 1 -ar 44100 {}",
            file.display(),
            raw.display()
        ),
    );
    std::fs::read(raw)
        .unwrap()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// Returns the value that `ffprobe` prints.
pub(super) fn probe(file: &Path, arguments: &str) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "default=nw=1:nk=1"])
        .args(arguments.split_whitespace())
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "ffprobe {arguments}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
