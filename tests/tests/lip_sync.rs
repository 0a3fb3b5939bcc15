//! The sync meter on real processes. A puppet is a video of a real person whose frames are chosen by how far the mouth
//! is open, so that it follows a speech as closely as its pictures allow, with any lag.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use farm_tests::{Clips, measured, sync, transcode};
use latentfarm_common::audio::silence::LevelMeter;
use latentfarm_common::time::FrameRate;
use serde_json::Value;

/// A face whose pictures are sorted by the opening of its mouth.
struct Puppet {
    dir: tempfile::TempDir,
    /// The numbers of the pictures, from closed to open.
    by_opening: Vec<u64>,
}

impl Puppet {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let clips = Clips::fetched();
        let face = clips.face();
        let lips = measured(&face, Some(&clips.long_speech()))["lips"].clone();
        let openings = lips.as_array().expect("a list").iter().map(Value::as_u64);
        let mut seen: Vec<(u64, u64)> = openings
            .zip(0..)
            .filter_map(|(opening, frame)| Some((opening?, frame)))
            .collect();
        assert!(seen.len() > 100, "the face is seen in {} frames only", seen.len());
        seen.sort_unstable();
        transcode(&face, &["-an"], dir.path().join("face-%d.png"));
        Self {
            by_opening: seen.into_iter().map(|(_, frame)| frame).collect(),
            dir,
        }
    }

    /// Makes a video at `rate` whose mouth follows `loudness`, `lag` frames late.
    fn video(&self, name: &str, loudness: &[u8], lag: i64, rate: FrameRate) -> PathBuf {
        let pictures = self.dir.path().join(name);
        std::fs::create_dir(&pictures).expect("make a folder");
        for frame in 0..loudness.len() {
            let before = i64::try_from(frame).expect("few frames") - lag;
            let loud = usize::try_from(before).ok().and_then(|at| loudness.get(at));
            let last = self.by_opening.len() - 1;
            let number = self.by_opening[usize::from(loud.copied().unwrap_or(0)) * last / 255];
            // FFmpeg counts its pictures from 1 on.
            let picture = self.dir.path().join(format!("face-{}.png", number + 1));
            symlink(picture, pictures.join(format!("{frame}.png"))).expect("link a picture");
        }
        let video = self.dir.path().join(format!("{name}.mp4"));
        let status = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-framerate", &rate.to_string(), "-i"])
            .arg(pictures.join("%d.png"))
            .args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"])
            .arg(&video)
            .status()
            .expect("run ffmpeg");
        assert!(status.success(), "ffmpeg cannot join the pictures");
        video
    }
}

/// Makes ten seconds of speech, and returns its loudness at `rate` too.
fn speech(folder: &Path, rate: FrameRate) -> (PathBuf, Vec<u8>) {
    let clips = Clips::fetched();
    let raw = |input: &Path, name: &str| {
        let form = ["-f", "s16le", "-ac", "1", "-ar", "16000"];
        std::fs::read(transcode(input, &form, folder.join(name))).expect("read the samples")
    };
    let mut bytes = raw(&clips.long_speech(), "long.raw");
    bytes.extend(raw(&clips.speech(), "short.raw"));
    let samples: Vec<i16> = bytes
        .chunks_exact(2)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let mut meter = LevelMeter::default();
    meter.push(&samples);
    let joined = folder.join("joined.raw");
    std::fs::write(&joined, &bytes).expect("write the samples");
    let path = folder.join("joined.wav");
    let status = Command::new("ffmpeg")
        .args([
            "-v", "error", "-y", "-f", "s16le", "-ac", "1", "-ar", "16000", "-i",
        ])
        .args([&joined, &path])
        .status()
        .expect("run ffmpeg");
    assert!(status.success(), "ffmpeg cannot write the speech");
    let frames = rate.frames_covering(samples.len() as u64, 16_000);
    (path, meter.finish().loudness(rate, frames))
}

#[test]
fn a_puppet_that_follows_the_speech_is_measured_with_its_lag() {
    let puppet = Puppet::new();
    for (num, den, lags) in [(25, 1, [0, 3, -3].as_slice()), (60_000, 1001, &[0])] {
        let rate = FrameRate::new(num, den).expect("a rate");
        let (speech, loudness) = speech(puppet.dir.path(), rate);
        for &lag in lags {
            let video = puppet.video(&format!("{num}{lag}"), &loudness, lag, rate);
            let fit = &measured(&video, Some(&speech))["fit"];
            println!("{rate}, lag {lag}: {fit}");
            assert_eq!(fit["lag_frames"], lag, "{rate}: {fit}");
            assert!(
                fit["correlation"].as_f64() > Some(0.6),
                "{rate}, lag {lag}: {fit}"
            );
            let verdict = if lag == 0 { "follows" } else { "shifted" };
            assert_eq!(fit["verdict"], verdict, "{rate}: {fit}");
        }
    }
    // The speech of somebody else, who reads on where this one has stopped: the same pieces in the other order.
    let rate = FrameRate::FPS_25;
    let (_, loudness) = speech(puppet.dir.path(), rate);
    let other: Vec<u8> = loudness.iter().rev().copied().collect();
    let video = puppet.video("other", &other, 0, rate);
    let (speech, _) = speech(puppet.dir.path(), rate);
    let fit = &measured(&video, Some(&speech))["fit"];
    assert_eq!(fit["verdict"], "unclear", "{fit}");
}

#[test]
fn a_files_own_sound_keeps_its_place() {
    // The sound of a file begins half a second after its pictures, as its time stamps say.
    let puppet = Puppet::new();
    let rate = FrameRate::FPS_25;
    let (speech, loudness) = speech(puppet.dir.path(), rate);
    let silent = puppet.video("silent", &loudness, 12, rate);
    let both = puppet.dir.path().join("both.mkv");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-i"])
        .arg(&silent)
        .args(["-itsoffset", "0.48", "-i"])
        .arg(&speech)
        .args(["-c:v", "copy", "-c:a", "flac"])
        .arg(&both)
        .status()
        .expect("run ffmpeg");
    assert!(status.success(), "ffmpeg cannot join sound and pictures");
    let fit = &measured(&both, None)["fit"];
    assert_eq!(
        (&fit["lag_frames"], &fit["verdict"]),
        (&Value::from(0), &Value::from("follows")),
        "{fit}"
    );

    let page = puppet.dir.path().join("sync.html");
    let args = [both.to_str(), Some("--html"), page.to_str()].map(|arg| arg.expect("UTF-8"));
    let (code, stdout, stderr) = sync(&args);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.starts_with("lips follow the speech: lag 0 frames, r = 0."),
        "{stdout}"
    );
    let page = std::fs::read_to_string(page).expect("read the page");
    assert!(page.contains("lips follow the speech") && page.matches("<svg").count() == 2);
}

#[test]
fn unusable_inputs_are_refused_with_the_reason() {
    let clips = Clips::fetched();
    let dir = tempfile::tempdir().expect("temporary folder");
    let refused = |args: &[&Path], reason: &str| {
        let args: Vec<&str> = args.iter().map(|arg| arg.to_str().expect("UTF-8")).collect();
        let (code, stdout, stderr) = sync(&args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(reason), "`{reason}` is not in `{stderr}`");
    };
    refused(&[&clips.no_face()], "no face is seen in");
    let silent = transcode(
        &clips.face(),
        &["-an", "-c", "copy"],
        dir.path().join("silent.mp4"),
    );
    refused(&[&silent], "no audio track");
    refused(&[&dir.path().join("gone.mp4")], "gone.mp4");
    refused(&[&clips.speech()], "speech.wav");
}
