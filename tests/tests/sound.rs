//! The sound of a whole render: what the output plays is what the model heard, and what was checked at the start.

use std::path::Path;
use std::process::Command;

use farm_tests::{Clips, Render, tiny_weights, transcode};

/// Returns the times in seconds at which clicks begin, as a player plays the file.
fn clicks(path: &Path) -> Vec<f64> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-copyts", "-i"])
        .arg(path)
        .args([
            "-af",
            "aresample=48000:async=1:first_pts=0",
            "-ac",
            "1",
            "-f",
            "s16le",
            "-",
        ])
        .output()
        .expect("run ffmpeg");
    let samples = output
        .stdout
        .chunks_exact(2)
        .map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]]));
    let mut times: Vec<f64> = Vec::new();
    let mut loud_until = 0;
    for (at, sample) in samples.enumerate() {
        if sample.unsigned_abs() > 5000 {
            if at >= loud_until {
                times.push(at as f64 / 48_000.0);
            }
            loud_until = at + 4800;
        }
    }
    times
}

fn assert_times(found: &[f64], expected: &[f64]) {
    let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.002);
    assert!(
        near && found.len() == expected.len(),
        "{found:?} instead of {expected:?}"
    );
}

/// Two recordings are one file, whose time stamps start anew; while it is rendered, another program writes another voice to
/// its name.
#[test]
fn joined_sound_that_is_overwritten_meanwhile_is_played_as_it_was_heard() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let clips = Clips::fetched();
    let weights = tiny_weights(dir.path());
    let video = transcode(
        &clips.face(),
        &["-t", "2", "-an", "-vf", "fps=25"],
        at("video.mp4"),
    );
    let mut joined = Vec::new();
    for (part, times) in [("a.ts", "gt(t\\,0.4)"), ("b.ts", "gt(t\\,0.2)")] {
        let tone =
            format!("aevalsrc=0.9*sin(2*PI*1000*t)*lt(mod(t\\,0.5)\\,0.01)*{times}:s=48000:d=0.9:c=stereo");
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", &tone, "-c:a", "aac"])
            .arg(at(part))
            .status();
        assert!(made.expect("run ffmpeg").success());
        joined.extend(std::fs::read(at(part)).expect("read the part"));
    }
    let audio = at("speech.ts");
    std::fs::write(&audio, &joined).expect("write the sound");
    let output = at("out.mp4");
    let mut running = Render::new(&video, &audio, &output, &weights)
        .args(["--allow-no-face", "--workers", "1"])
        .spawn();
    while running.next_event()["event"] != "ingested" {}
    std::fs::write(&audio, &joined[..joined.len() / 2]).expect("overwrite the sound");
    let finished = running.finish();
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    // Each part begins with the 1024 samples that its encoder put first, and has whole packets of as many: 44 of them are
    // 0.939 s.
    let found = clicks(&output);
    assert_times(&found, &[0.5213, 0.9387 + 0.5213]);
    let notes: Vec<String> = finished
        .events
        .iter()
        .filter(|event| event["event"] == "note")
        .map(ToString::to_string)
        .collect();
    assert!(notes.iter().any(|note| note.contains("start anew")), "{notes:?}");
}
