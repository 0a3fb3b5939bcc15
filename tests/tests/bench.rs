//! `latentfarm bench` measures everything on a tiny case and leaves nothing behind. The tests ignore the
//! speed.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use farm_tests::{Clips, ProcessTag, program};
use serde_json::Value;

fn bench(folder: &Path, args: &[&str]) -> Output {
    let tag = ProcessTag::new();
    let (name, value) = tag.env();
    let output = Command::new(program("latentfarm"))
        .env(name, value)
        .arg("bench")
        .args(args)
        .arg("--work-dir")
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .expect("start latentfarm");
    tag.assert_nothing_left();
    let left = std::fs::read_dir(folder).expect("the folder").count();
    assert_eq!(left, 0, "scratch files were left");
    output
}

#[test]
fn a_tiny_bench_measures_everything_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clip = Clips::fetched().face();
    let clip = clip.to_str().unwrap();
    let output = bench(
        folder.path(),
        &["--video", clip, "--seconds", "1", "--chunks", "5", "--json"],
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let figures: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(figures["queue"]["chunks"], 5, "{figures}");
    assert_eq!(figures["queue"]["sync"], "always", "{figures}");
    assert_eq!(figures["decode"]["frames"], 24, "{figures}");
    assert_eq!(figures["encode"]["frames"], 24, "{figures}");
    for (case, figure) in [
        ("decode", "frames_per_second"),
        ("encode", "frames_per_second"),
        ("stitch", "ratio_to_copy"),
        ("queue", "median_ms"),
        ("queue", "p95_ms"),
        ("queue", "mean_ms"),
    ] {
        let value = figures[case][figure].as_f64();
        assert!(
            value.is_some_and(|value| value > 0.0),
            "{case} {figure}: {figures}"
        );
    }
}

#[test]
fn a_bench_with_unusable_arguments_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    for (args, reason) in [
        (["--chunks", "1"], "2..=10000"),
        (["--seconds", "0"], "1..=600"),
        (["--video", "no-such.mp4"], "no-such.mp4"),
    ] {
        let output = bench(folder.path(), &args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
    }
}
