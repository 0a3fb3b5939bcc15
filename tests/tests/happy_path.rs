//! The whole farm renders a real clip, and the `ffmpeg` program checks the result.

use std::path::Path;
use std::process::Command;

use farm_tests::{Clips, Render, tiny_weights, transcode};
use latentfarm_common::frame::{Colour, ColourMatrix, ColourRange, Picture, PictureFormat};
use latentfarm_common::media::SegmentEncoder;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::job::EncoderSpec;

/// Returns the frames of a video as `ffmpeg` decodes them, with 4:2:0 planes one after the other.
fn raw_frames(path: &Path, frame_bytes: usize) -> Vec<Vec<u8>> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args([
            "-map",
            "0:v",
            "-fps_mode",
            "passthrough",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "yuv420p",
            "-",
        ])
        .output()
        .expect("run the program");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout.len() % frame_bytes, 0);
    output.stdout.chunks(frame_bytes).map(<[u8]>::to_vec).collect()
}

fn probe(path: &Path, entries: &str) -> String {
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-of",
            "default=nw=1:nk=1",
            "-show_entries",
            entries,
        ])
        .arg(path)
        .output()
        .expect("run the program");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Returns the PSNR in dB over the samples that `keep` selects.
fn psnr(a: &[Vec<u8>], b: &[Vec<u8>], keep: &[Vec<bool>]) -> f64 {
    let mut sum = 0.0;
    let mut count = 0.0;
    for ((a, b), keep) in a.iter().zip(b).zip(keep) {
        for ((&a, &b), _) in a.iter().zip(b).zip(keep).filter(|(_, keep)| **keep) {
            let difference = f64::from(a) - f64::from(b);
            sum += difference * difference;
            count += 1.0;
        }
    }
    10.0 * (255.0 * 255.0 * count / sum).log10()
}

fn picture(width: u32, height: u32, planes: &[u8]) -> Picture {
    let luma = width as usize * height as usize;
    let colour = Colour {
        matrix: ColourMatrix::Bt601,
        range: ColourRange::Limited,
        primaries_tag: 2,
        transfer_tag: 2,
        matrix_tag: 2,
        range_tagged: false,
    };
    Picture {
        format: PictureFormat {
            width,
            height,
            colour,
            sample_aspect: (1, 1),
        },
        y: planes[..luma].to_vec(),
        u: planes[luma..luma * 5 / 4].to_vec(),
        v: planes[luma * 5 / 4..].to_vec(),
    }
}

#[test]
fn only_the_face_changes_and_the_rest_keeps_its_quality() {
    let dir = tempfile::tempdir().unwrap();
    let clips = Clips::fetched();
    let video = transcode(
        &clips.face(),
        &["-t", "2", "-an", "-c:v", "copy"],
        dir.path().join("video.mp4"),
    );
    let audio = transcode(&clips.speech(), &["-t", "2"], dir.path().join("speech.wav"));
    let weights = tiny_weights(dir.path());
    let lossless = dir.path().join("lossless.mp4");
    let lossy = dir.path().join("lossy.mkv");
    let render = |output: &Path, args: &[&str]| {
        Render::new(&video, &audio, output, &weights)
            .args(["--fps", "source"])
            .args(args)
            .run()
            .complete()
    };
    let report = render(&lossless, &["--lossless"]).report;
    render(&lossy, &["--crf", "18"]);

    let size = probe(&video, "stream=width,height");
    let mut size = size.lines().map(|line| line.parse::<u32>().unwrap());
    let (width, height) = (size.next().unwrap(), size.next().unwrap());
    let frame_bytes = (width * height * 3 / 2) as usize;
    let rendered = raw_frames(&lossless, frame_bytes);
    let source: Vec<_> = raw_frames(&video, frame_bytes)
        .into_iter()
        .take(rendered.len())
        .collect();
    assert_eq!(rendered.len() as u64, report["frames"].as_u64().unwrap());
    assert_eq!(source.len(), rendered.len());

    // The picture outside the mask is equal bit for bit, and the mask is only a part of the picture.
    let same: Vec<Vec<bool>> = source
        .iter()
        .zip(&rendered)
        .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a == b).collect())
        .collect();
    let samples = same.iter().map(Vec::len).sum::<usize>() as f64;
    let changed = same.iter().flatten().filter(|same| !**same).count() as f64 / samples;
    assert!(
        (0.002..0.4).contains(&changed),
        "{:.1} % of the samples changed",
        changed * 100.0
    );
    let border_rows = width as usize * 4;
    assert!(
        same.iter()
            .all(|frame| frame[..border_rows].iter().all(|same| *same)),
        "the top edge changed"
    );

    // With the same encoder, the surroundings of the face are as good as those of the unchanged source.
    let reference = dir.path().join("reference.nut");
    let rate: FrameRate = report["rate"].as_str().unwrap().parse().unwrap();
    let spec = EncoderSpec {
        rate,
        crf: Some(18),
        preset: "medium".to_owned(),
    };
    let format = picture(width, height, &source[0]).format;
    let mut encoder = SegmentEncoder::create(&reference, &format, &spec, 0).unwrap();
    for planes in &source {
        encoder.push(&picture(width, height, planes)).unwrap();
    }
    encoder.finish().unwrap();
    let ours = psnr(&raw_frames(&lossy, frame_bytes), &source, &same);
    let theirs = psnr(&raw_frames(&reference, frame_bytes), &source, &same);
    assert!(
        ours > theirs - 0.5,
        "{ours:.2} dB outside the mask, {theirs:.2} dB for the untouched source"
    );

    // Sound and picture end together, and the metadata names the synthetic weights.
    let video_s: f64 = rendered.len() as f64 / rate.as_f64();
    let audio_s: f64 = probe(&lossless, "stream=duration")
        .lines()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        (audio_s - video_s).abs() <= 1.0 / rate.as_f64(),
        "{audio_s} s of sound, {video_s} s of picture"
    );
    assert!(probe(&lossless, "format_tags").contains("SYNTHETIC WEIGHTS"));
}

#[test]
fn without_weights_the_demo_weights_are_used_and_named_with_the_steps_that_they_were_trained_for() {
    let dir = tempfile::tempdir().unwrap();
    let clips = Clips::fetched();
    let output = dir.path().join("out.mp4");
    let caches = dir.path().join("caches");
    let render = || {
        Render::with_demo_weights(&clips.talking(), &clips.speech(), &output)
            .env("XDG_CACHE_HOME", caches.to_str().unwrap())
            .arg("--force")
    };
    let finished = render().run().complete();
    assert_eq!(finished.event("estimate").unwrap()["weights_kind"], "demo");
    let report = finished.event("report").unwrap();
    assert_eq!(report["weights_kind"], "demo");
    let doubtful = report["doubtful"].as_array().unwrap();
    assert!(
        doubtful.is_empty(),
        "the pictures are what the model makes: {doubtful:?}"
    );
    // A mesh is seen in nearly every rendered mouth.
    let measured = report["lip_sync"]["frames"].as_u64().unwrap();
    let synced = report["synced"].as_u64().unwrap();
    assert!(
        measured <= synced && measured > synced / 2,
        "{measured} of {synced} mouths"
    );
    let tags = probe(&output, "format_tags");
    assert!(
        tags.contains("DEMO WEIGHTS; ") && tags.contains(", 3 steps,"),
        "{tags}"
    );
    let folders = std::fs::read_dir(caches.join("latentfarm")).unwrap();
    let written = folders.flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(written, 1, "the weights are written once");
    // A preset that is chosen counts.
    let _finished = render().args(["--preset", "lean"]).run().complete();
    let tags = probe(&output, "format_tags");
    assert!(
        tags.contains("DEMO WEIGHTS; ") && tags.contains(", 1 steps,"),
        "{tags}"
    );
}

#[test]
fn a_job_for_a_farm_has_to_name_its_weights() {
    let dir = tempfile::tempdir().unwrap();
    let clips = Clips::fetched();
    let output = dir.path().join("out.mp4");
    let render = Render::with_demo_weights(&clips.talking(), &clips.speech(), &output);
    let finished = render.args(["--nats", "nats://127.0.0.1:1"]).run();
    assert_eq!(finished.code(), Some(2), "{}", finished.stderr);
    assert!(
        finished
            .stderr
            .contains("no weights are given: name with --weights DIR"),
        "{}",
        finished.stderr
    );
    assert!(!output.exists());
}

#[test]
fn dry_run_prints_an_estimate_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clips = Clips::fetched();
    let weights = tiny_weights(dir.path());
    let output = dir.path().join("out.mp4");
    let finished = Render::new(&clips.face(), &clips.speech(), &output, &weights)
        .args(["--dry-run"])
        .run()
        .complete();
    let estimate = finished
        .events
        .iter()
        .find(|event| event["event"] == "estimate")
        .unwrap();
    assert!(estimate["frames"].as_u64().unwrap() > 0, "{estimate}");
    assert!(!output.exists() && !dir.path().join("out.mp4.latentfarm").exists());
}
