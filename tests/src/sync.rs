//! Runs `latentfarm sync`, the sync meter.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{ProcessTag, program};

/// Runs `latentfarm sync` and returns its exit code, its standard output and its standard error.
pub fn sync(args: &[&str]) -> (Option<i32>, String, String) {
    let tag = ProcessTag::new();
    let (name, value) = tag.env();
    let output = Command::new(program("latentfarm"))
        .arg("sync")
        .args(args)
        .env(name, value)
        .output()
        .expect("run latentfarm");
    tag.assert_nothing_left();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Measures a video with `latentfarm sync --json`, against its own sound if `audio` is `None`.
#[track_caller]
pub fn measured(video: &Path, audio: Option<&Path>) -> Value {
    let (video, audio) = (video.to_str(), audio.map(|audio| audio.to_str().expect("UTF-8")));
    let args: Vec<&str> = video.into_iter().chain(audio).chain(["--json"]).collect();
    let (code, stdout, stderr) = sync(&args);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).expect("one JSON object")
}
