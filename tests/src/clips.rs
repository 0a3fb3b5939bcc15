//! Test material: real clips fetched by `deploy/clips`, cut short with the `ffmpeg` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use latentfarm_common::frame::FrameHash;
use latentfarm_common::media;
use tempfile::TempDir;

use crate::{Render, program};

/// The fetched clips.
#[derive(Clone, Debug)]
pub struct Clips {
    dir: PathBuf,
}

impl Clips {
    /// Clips in `LATENTFARM_CLIPS`, else in `.cache/clips` of the workspace.
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

    /// A real talking face.
    pub fn face(&self) -> PathBuf {
        self.dir.join("face.mp4")
    }

    /// A video without any face.
    pub fn no_face(&self) -> PathBuf {
        self.dir.join("no-face.mp4")
    }

    /// Real speech, about 3 s.
    pub fn speech(&self) -> PathBuf {
        self.dir.join("speech.wav")
    }

    /// Real speech, about 7 s.
    pub fn long_speech(&self) -> PathBuf {
        self.dir.join("speech-long.wav")
    }
}

/// Runs `ffmpeg` on `input` with `args` and returns `output`.
#[track_caller]
pub fn cut(input: &Path, args: &[&str], output: PathBuf) -> PathBuf {
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

/// Repeats `input` to `seconds`, packets copied.
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

/// Tiny random weights in a folder under `dir`.
#[track_caller]
pub fn tiny_weights(dir: &Path) -> PathBuf {
    synthesize(&dir.join("weights"), &[])
}

/// Tiny random weights that simulated cards count as the published `model`.
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

/// What a render takes, in a folder of its own that goes with this.
#[derive(Debug)]
pub struct Material {
    dir: TempDir,
    pub video: PathBuf,
    pub audio: PathBuf,
    pub weights: PathBuf,
}

impl Material {
    /// So many seconds of a real face (without sound) and of real speech, and tiny weights.
    pub fn seconds(video: &str, audio: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let clips = Clips::fetched();
        let video = cut(
            &clips.face(),
            &["-t", video, "-an", "-c:v", "copy"],
            dir.path().join("video.mp4"),
        );
        let audio = cut(
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

    /// A render of this material to a file in its folder.
    pub fn render(&self, output: &str) -> Render {
        Render::new(&self.video, &self.audio, &self.path(output), &self.weights)
    }
}

/// Hashes of all frames of a video file.
#[track_caller]
pub fn decoded(path: &Path) -> Vec<FrameHash> {
    let mut hashes = Vec::new();
    media::decode_hashes(path, &mut |_, hash| hashes.push(hash)).expect("decode the video");
    hashes
}
