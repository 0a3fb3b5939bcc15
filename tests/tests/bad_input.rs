//! Bad input is refused with one clear error that names the file, the cause and the cure, with exit code 2,
//! and without leaving anything behind.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use farm_tests::{Clips, Finished, Material, Render, transcode, zeroed};

struct Inputs {
    material: Material,
}

impl Inputs {
    fn good() -> Self {
        Self {
            material: Material::seconds("1", "1"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.material.path(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn render(&self, video: &Path, audio: &Path) -> Finished {
        Render::new(video, audio, &self.path("out.mp4"), &self.material.weights).run()
    }

    /// Asserts exit code 2, a single error with all of `expected`, and neither an output nor a job folder.
    #[track_caller]
    fn assert_refused(&self, finished: &Finished, expected: &[&str]) {
        assert_eq!(
            finished.code(),
            Some(2),
            "{}\n{:#?}",
            finished.stderr,
            finished.events
        );
        for part in expected {
            assert!(
                finished.stderr.contains(part),
                "`{part}` is not in: {}",
                finished.stderr
            );
        }
        assert_eq!(
            finished.stderr.matches("error:").count(),
            1,
            "{}",
            finished.stderr
        );
        let event = finished.event("refused").expect("a refusal is an event");
        assert_eq!(event["exit_code"], 2, "{event}");
        let reason = event["error"].as_str().expect("the reason");
        assert!(expected.iter().all(|part| reason.contains(part)), "{reason}");
        assert!(!self.path("out.mp4").exists(), "an output was written");
        assert!(!self.path("out.mp4.latentfarm").exists(), "a job folder was left");
    }
}

#[test]
fn unusable_videos_are_refused() {
    let inputs = Inputs::good();
    let whole = fs::read(&inputs.material.video).unwrap();
    let sound_only = transcode(&inputs.material.audio, &[], inputs.path("sound.mp4"));
    let wrong_depth = transcode(
        &inputs.material.video,
        &["-pix_fmt", "yuv420p10le", "-c:v", "libx264"],
        inputs.path("deep.mp4"),
    );
    let half_lost = zeroed(&inputs.material.video, 0.3..1.0, inputs.path("half.mp4"));
    let cases: [(PathBuf, &[&str]); 8] = [
        (half_lost, &["half.mp4", " s (frame ", "copy or download"]),
        (inputs.path("missing.mp4"), &["missing.mp4"]),
        (inputs.write("empty.mp4", b""), &["empty.mp4", "empty"]),
        (
            inputs.write("text.mp4", b"this is no video at all, only a line of text"),
            &["text.mp4"],
        ),
        (inputs.path(""), &["directory"]),
        (sound_only, &["sound.mp4", "video"]),
        (
            inputs.write("cut.mp4", &whole[..whole.len() / 2]),
            &["cut.mp4", "truncated"],
        ),
        (wrong_depth, &["deep.mp4", "8"]),
    ];
    for (video, expected) in cases {
        inputs.assert_refused(&inputs.render(&video, &inputs.material.audio), expected);
    }
}

#[test]
fn unusable_audio_is_refused() {
    let inputs = Inputs::good();
    let no_samples = transcode(
        &inputs.material.audio,
        &["-af", "atrim=end_sample=0"],
        inputs.path("silent.wav"),
    );
    let short = |samples: u32| {
        let trim = format!("aresample=16000,atrim=end_sample={samples}");
        let name = format!("{samples}.wav");
        transcode(&inputs.material.audio, &["-af", &trim], inputs.path(&name))
    };
    let cases: [(PathBuf, &[&str]); 6] = [
        (short(1), &["1.wav", "0.000 s", "0.04 s"]),
        (short(639), &["639.wav", "0.040 s"]),
        (inputs.path("missing.wav"), &["missing.wav"]),
        (inputs.material.video.clone(), &["video.mp4", "audio"]),
        (no_samples, &["silent.wav"]),
        (inputs.write("text.wav", b"not a sound"), &["text.wav"]),
    ];
    for (audio, expected) in cases {
        inputs.assert_refused(&inputs.render(&inputs.material.video, &audio), expected);
    }
}

#[test]
fn unusable_weights_are_refused() {
    let inputs = Inputs::good();
    let empty = inputs.path("nothing");
    fs::create_dir(&empty).unwrap();
    let finished = Render::new(
        &inputs.material.video,
        &inputs.material.audio,
        &inputs.path("out.mp4"),
        &empty,
    )
    .run();
    inputs.assert_refused(&finished, &["nothing", "weights"]);

    // If the config has other widths than the file, the error names the tensors of the wrong shape.
    let config = inputs.material.weights.join("unet_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["block_out_channels"] = serde_json::json!([64, 64, 64, 64]);
    fs::write(&config, json.to_string()).unwrap();
    let finished = inputs.render(&inputs.material.video, &inputs.material.audio);
    inputs.assert_refused(
        &finished,
        &[
            "down_blocks.0.attentions.0.norm.weight has shape [32], not [64]",
            "misshaped",
        ],
    );
}

#[test]
fn existing_and_unwritable_outputs_are_refused() {
    let inputs = Inputs::good();
    let render = |output: &Path| {
        Render::new(
            &inputs.material.video,
            &inputs.material.audio,
            output,
            &inputs.material.weights,
        )
        .run()
    };

    let existing = inputs.write("there.mp4", b"precious");
    let finished = render(&existing);
    assert_eq!(finished.code(), Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("--force"), "{}", finished.stderr);
    assert_eq!(fs::read(&existing).unwrap(), b"precious");

    let video = inputs.path("video.mp4");
    fs::copy(&inputs.material.video, &video).unwrap();
    let link = inputs.path("link.mp4");
    std::os::unix::fs::symlink(&video, &link).unwrap();
    let before = fs::read(&video).unwrap();
    for output in [&video, &link] {
        let render = Render::new(&video, &inputs.material.audio, output, &inputs.material.weights);
        let finished = render.args(["--force"]).run();
        assert_eq!(finished.code(), Some(2), "{}", finished.stderr);
        assert!(
            finished.stderr.contains("same file as the input"),
            "{}",
            finished.stderr
        );
    }
    assert_eq!(fs::read(&video).unwrap(), before);

    let nowhere = inputs.path("no/such/folder/out.mp4");
    assert_eq!(render(&nowhere).code(), Some(2));
    let strange = inputs.path("out.avi");
    let finished = render(&strange);
    assert_eq!(finished.code(), Some(2));
    assert!(finished.stderr.contains(".mkv"), "{}", finished.stderr);
    let folder = inputs.path("folder.mp4");
    fs::create_dir(&folder).unwrap();
    assert_eq!(render(&folder).code(), Some(2));
}

#[test]
fn a_missing_or_old_nats_server_is_refused() {
    let inputs = Inputs::good();
    let old = inputs.write("nats-server", b"#!/bin/sh\necho 'nats-server: v2.9.10'\n");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    let render = || {
        Render::new(
            &inputs.material.video,
            &inputs.material.audio,
            &inputs.path("out.mp4"),
            &inputs.material.weights,
        )
    };
    let finished = render().args(["--nats-server", old.to_str().unwrap()]).run();
    inputs.assert_refused(&finished, &["2.9.10", "2.12"]);
    let finished = render().args(["--nats-server", "/no/such/nats-server"]).run();
    inputs.assert_refused(&finished, &["/no/such/nats-server"]);
}

#[test]
fn values_out_of_bounds_are_refused() {
    let inputs = Inputs::good();
    for (args, part) in [
        (["--chunk-frames", "50"], "16"),
        (["--chunk-frames", "496"], "480"),
        (["--steps", "0"], "1000"),
        (["--fps", "25/0"], "25/0"),
        (["--crf", "52"], "51"),
        (["--x264-preset", "quick"], "veryfast"),
    ] {
        let finished = Render::new(
            &inputs.material.video,
            &inputs.material.audio,
            &inputs.path("out.mp4"),
            &inputs.material.weights,
        )
        .args(args)
        .run();
        inputs.assert_refused(&finished, &[part]);
    }
}

#[test]
fn a_video_without_any_face_ends_incomplete_unless_allowed() {
    let inputs = Inputs::good();
    let clips = Clips::fetched();
    let video = transcode(
        &clips.no_face(),
        &["-t", "1", "-an", "-pix_fmt", "yuv420p"],
        inputs.path("landscape.mp4"),
    );
    let output = inputs.path("out.mp4");
    let render = || Render::new(&video, &inputs.material.audio, &output, &inputs.material.weights);

    let finished = render().run();
    assert_eq!(finished.code(), Some(3), "{}", finished.stderr);
    assert!(finished.stderr.contains("--allow-no-face"), "{}", finished.stderr);
    assert!(!output.exists());

    let finished = render().args(["--allow-no-face"]).run().complete();
    assert_eq!(finished.report["synced"], 0);
    assert!(output.exists());
}
