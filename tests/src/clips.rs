//! The inputs of the tests: real clips that `deploy/clips` has fetched, shortened with the `ffmpeg` program.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use latentfarm_common::frame::FrameHash;
use latentfarm_common::media;
use tempfile::TempDir;

use crate::{Render, program};

/// The folder of the fetched clips.
#[derive(Clone, Debug)]
pub struct Clips {
    dir: PathBuf,
}

impl Clips {
    /// Finds the clips in `LATENTFARM_CLIPS`, or else in `.cache/clips` of the workspace.
    pub fn fetched() -> Self {
        let dir = std::env::var_os("LATENTFARM_CLIPS").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/clips"),
            PathBuf::from,
        );
        assert!(
            dir.join("face.mp4").is_file(),
            "no clips in `{}`: run deploy/clips",
            dir.display()
        );
        Self { dir }
    }

    /// Returns a video of a real talking face.
    pub fn face(&self) -> PathBuf {
        self.dir.join("face.mp4")
    }

    /// Returns the last 7.7 s of that video, in which the mouth moves and nothing covers it.
    pub fn talking(&self) -> PathBuf {
        self.dir.join("talking.mp4")
    }

    /// Returns a video without any face.
    pub fn no_face(&self) -> PathBuf {
        self.dir.join("no-face.mp4")
    }

    /// Returns about 3 s of real speech.
    pub fn speech(&self) -> PathBuf {
        self.dir.join("speech.wav")
    }

    /// Returns about 7 s of real speech.
    pub fn long_speech(&self) -> PathBuf {
        self.dir.join("speech-long.wav")
    }

    /// Returns both speeches one after the other, 11.4 s with half a second of silence after each.
    pub fn sentences(&self) -> PathBuf {
        self.dir.join("sentences.wav")
    }
}

/// Runs `ffmpeg` on `input` with `args` and returns `output`.
#[track_caller]
pub fn transcode(input: &Path, args: &[&str], output: PathBuf) -> PathBuf {
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-i"])
        .arg(input)
        .args(args)
        .arg(&output)
        .status()
        .expect("run ffmpeg");
    assert!(status.success(), "ffmpeg {args:?} failed on {}", input.display());
    output
}

/// Copies the MP4 file `input` to `output` with zeros in the `shares` of its media data, and returns `output`.
#[track_caller]
pub fn zeroed(input: &Path, shares: Range<f64>, output: PathBuf) -> PathBuf {
    let plain = output.with_extension("plain.mp4");
    let plain = transcode(input, &["-c", "copy"], plain);
    let mut bytes = std::fs::read(plain).expect("read the clip");
    let place = |name: &[u8; 4]| bytes.windows(4).position(|word| word == name).expect("an MP4");
    // The index is at the end of the file.
    let (data, index) = (place(b"mdat") + 4, place(b"moov") - 4);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a small file"
    )]
    let at = |share: f64| data + ((index - data) as f64 * share) as usize;
    let hole = at(shares.start)..at(shares.end);
    bytes[hole].fill(0);
    std::fs::write(&output, bytes).expect("write the clip");
    output
}

/// Repeats `input` for `seconds` and copies its packets to `output`.
#[track_caller]
pub fn repeat(input: &Path, seconds: &str, output: &Path) {
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-stream_loop", "-1", "-i"])
        .arg(input)
        .args(["-t", seconds, "-c", "copy"])
        .arg(output)
        .status()
        .expect("run ffmpeg");
    assert!(status.success(), "ffmpeg cannot repeat {}", input.display());
}

/// Makes tiny random weights in a folder under `dir`.
#[track_caller]
pub fn tiny_weights(dir: &Path) -> PathBuf {
    synthesize(&dir.join("weights"), &[])
}

/// Makes tiny random weights that simulated cards count with the memory of the published `model`.
#[track_caller]
pub fn tiny_weights_as(dir: &Path, model: &str) -> PathBuf {
    synthesize(&dir.join(format!("weights-{model}")), &["--account-as", model])
}

#[track_caller]
fn synthesize(weights: &Path, more: &[&str]) -> PathBuf {
    let status = Command::new(program("latentfarm-worker"))
        .args(["weights", "synth", "--size", "tiny", "--out"])
        .arg(weights)
        .args(more)
        .status()
        .expect("run latentfarm-worker");
    assert!(status.success(), "cannot make weights");
    weights.to_owned()
}

/// The inputs of a render, in a temporary folder that is removed when this is dropped.
#[derive(Debug)]
pub struct Material {
    dir: TempDir,
    pub video: PathBuf,
    pub audio: PathBuf,
    pub weights: PathBuf,
}

impl Material {
    /// Makes a video of a real face without sound, real speech, both of the given seconds, and tiny weights.
    pub fn seconds(video: &str, audio: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let clips = Clips::fetched();
        let video = transcode(
            &clips.face(),
            &["-t", video, "-an", "-c:v", "copy"],
            dir.path().join("video.mp4"),
        );
        let audio = transcode(
            &clips.long_speech(),
            &["-t", audio],
            dir.path().join("speech.wav"),
        );
        let weights = tiny_weights(dir.path());
        Self {
            dir,
            video,
            audio,
            weights,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns a render of these inputs to a file in their folder.
    pub fn render(&self, output: &str) -> Render {
        Render::new(&self.video, &self.audio, &self.path(output), &self.weights)
    }
}

/// Decodes a video file and returns the hashes of all its frames.
#[track_caller]
pub fn decoded(path: &Path) -> Vec<FrameHash> {
    let mut hashes = Vec::new();
    media::decode_hashes(path, &mut |_, hash| hashes.push(hash)).expect("decode the video");
    hashes
}
