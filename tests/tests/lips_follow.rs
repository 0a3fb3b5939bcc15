//! The lips of renders follow the speech, on real processes: whatever the rates, time stamps and codecs of the inputs, across
//! chunks, and after an interruption. The demo weights make this visible; the goldens cannot show an offset between
//! sound and pictures.

use std::path::{Path, PathBuf};

use farm_tests::{Clips, Render, measured, repeat, transcode};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// The least correlation of lips and speech.
const FOLLOWS: f64 = 0.4;

/// The inputs, and a folder for what is made of them.
struct Stage {
    clips: Clips,
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self {
            clips: Clips::fetched(),
            dir: tempfile::tempdir().expect("temporary folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Encodes the video of the talking face to a file of this name, with these arguments of FFmpeg.
    fn video(&self, name: &str, args: &[&str]) -> PathBuf {
        transcode(&self.clips.talking(), args, self.path(name))
    }

    /// Encodes the speech to a file of this name, with these arguments of FFmpeg.
    fn speech(&self, name: &str, args: &[&str]) -> PathBuf {
        transcode(&self.clips.sentences(), args, self.path(name))
    }

    /// Renders to `name`, and checks that the report and a measurement of the file both find a lag of at most
    /// `most_lag` frames.
    #[track_caller]
    fn follows(&self, name: &str, video: &Path, speech: &Path, args: &[&str], most_lag: i64) -> PathBuf {
        let output = self.path(name);
        let finished = Render::with_demo_weights(video, speech, &output).args(args).run();
        let report = finished.complete().report;
        in_step(name, &report["lip_sync"], most_lag);
        in_step(name, &measured(&output, Some(speech))["fit"], most_lag);
        output
    }
}

/// Checks that a measurement finds lips that follow, and that their lag is at most `most_lag` frames.
#[track_caller]
fn in_step(what: &str, fit: &Value, most_lag: i64) {
    assert_eq!(fit["verdict"], "follows", "{what}: {fit}");
    let lag = fit["lag_frames"].as_i64().expect("a number");
    assert!(lag.abs() <= most_lag, "{what}: {fit}");
    assert!(fit["correlation"].as_f64() > Some(FOLLOWS), "{what}: {fit}");
}

/// A video at a variable rate of about 30 frames per second, with B-frames, whose delay an edit list takes back.
const VARIABLE: [&str; 10] = [
    "-vf",
    "fps=30000/1001,select='not(eq(mod(n,7),3))'",
    "-fps_mode",
    "vfr",
    "-c:v",
    "libx264",
    "-bf",
    "3",
    "-preset",
    "veryfast",
];

#[test]
fn lips_follow_a_speech_with_priming_in_a_video_of_a_variable_rate() {
    let stage = Stage::new();
    let video = stage.video("variable.mp4", &VARIABLE);
    // AAC begins with samples that a decoder has to drop, which an edit list says.
    let speech = stage.speech("speech.m4a", &["-c:a", "aac", "-ar", "44100"]);
    // Short chunks, so that there are many borders.
    let output = stage.follows("out.mp4", &video, &speech, &["--chunk-frames", "32"], 0);

    // The same pictures with a speech that begins three frames later are found to be early by three frames.
    let late = transcode(
        &stage.clips.sentences(),
        &["-af", "adelay=120:all=1"],
        stage.path("late.wav"),
    );
    let fit = &measured(&output, Some(&late))["fit"];
    assert_eq!(
        (&fit["lag_frames"], &fit["verdict"]),
        (&Value::from(-3), &Value::from("shifted")),
        "{fit}"
    );
}

#[test]
#[ignore = "takes 6 minutes: cargo t --run-ignored only -E 'binary(lips_follow)'"]
fn lips_follow_at_all_rates_and_with_all_codecs() {
    let stage = Stage::new();
    let codecs: [(&str, &[&str]); 6] = [
        ("speech.mp3", &["-c:a", "libmp3lame", "-ar", "44100"]),
        ("speech.m4a", &["-c:a", "aac", "-ar", "48000"]),
        ("speech.opus", &["-c:a", "libopus", "-ar", "48000"]),
        ("speech-44.wav", &["-ar", "44100", "-ac", "2"]),
        ("speech-48.flac", &["-ar", "48000"]),
        ("speech.ogg", &["-c:a", "libvorbis"]),
    ];
    let rates = ["24000/1001", "25", "30000/1001", "30", "50", "60"];
    for ((speech, codec), rate) in codecs.into_iter().zip(rates) {
        let speech = stage.speech(speech, codec);
        let filter = format!("fps={rate}");
        let video = stage.video("video.mp4", &["-vf", &filter, "-bf", "2"]);
        // Frames of 20 ms and less are as short as a step of the audio encoder.
        let most_lag = i64::from(["50", "60"].contains(&rate));
        for (name, args, most_lag) in [
            ("at-25.mp4", ["--on-short", "bounce"].as_slice(), 0),
            ("as-is.mkv", &["--fps", "source", "--on-short", "loop"], most_lag),
        ] {
            println!("{rate} frames per second, {}", speech.display());
            stage.follows(name, &video, &speech, &[args, &["--force"]].concat(), most_lag);
        }
    }
}

#[test]
#[ignore = "takes 2 minutes: cargo t --run-ignored only -E 'binary(lips_follow)'"]
fn lips_follow_around_the_seams_of_a_long_speech_and_after_an_interruption() {
    let stage = Stage::new();
    let video = stage.video("variable.mp4", &VARIABLE);
    // 45.6 s: the audio encoder takes 30 s at a time.
    let speech = stage.path("long.wav");
    repeat(&stage.clips.sentences(), "45.56", &speech);
    let output = stage.path("out.mp4");
    let render = || Render::with_demo_weights(&video, &speech, &output);

    let mut running = render().spawn();
    let mut rendered = 0;
    while rendered < 4 {
        rendered += u32::from(running.wait_for("chunk_done")["work"] == "render");
    }
    running.signal(Signal::SIGINT);
    assert_ne!(running.finish().code(), Some(0));
    let resumed = render().run().complete();
    let fit = &resumed.report["lip_sync"];
    in_step("resumed", fit, 0);
    for stretch in fit["stretches"].as_array().expect("a list") {
        // A stretch has few syllables: its own best lag is a rough one.
        let lag = stretch["lag_frames"].as_i64().expect("a number");
        assert!(lag.abs() <= 1, "{stretch}");
        assert!(
            stretch["correlation_at_overall_lag"].as_f64() > Some(0.3),
            "{stretch}"
        );
    }
    in_step("the file", &measured(&output, Some(&speech))["fit"], 0);
}
