//! Tests of the command `latentfarm-worker bench` on tiny weights: that it measures, not how fast the model
//! is.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::path::Path;
use std::process::{Command, Output};

use latentfarm_common::wire::job::WeightsKind;
use latentfarm_engine::bench::{BenchReport, Part};
use latentsync::synth::{Size, synthesize};

fn bench(weights: Option<&Path>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latentfarm-worker"));
    command
        .arg("bench")
        .args(["--repeat", "2", "--frames", "2"])
        .args(args)
        .env_remove("LATENTFARM_WEIGHTS");
    if let Some(dir) = weights {
        command.arg("--weights").arg(dir);
    }
    command.output().unwrap()
}

fn tiny() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    synthesize(dir.path(), Size::Tiny, 3).unwrap();
    dir
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_part_is_measured_and_printed_as_json() {
    let weights = tiny();
    let output = bench(Some(weights.path()), &["--threads", "2", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: BenchReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report.threads, report.frames, report.resolution_px), (2, 2, 64));
    assert!(report.weights.kind == WeightsKind::Synthetic && report.weights.identity.len() == 64);
    let parts: Vec<Part> = report.parts.iter().map(|part| part.part).collect();
    assert_eq!(
        parts,
        [
            Part::Load,
            Part::Mel,
            Part::Whisper,
            Part::VaeEncode,
            Part::VaeDecode,
            Part::Unet,
            Part::Window
        ]
    );
    for part in &report.parts {
        let name = part.part.name();
        assert_eq!(part.seconds.len(), 2, "{name}");
        assert!(part.seconds.iter().all(|seconds| *seconds > 0.0), "{name}");
        assert!(part.baseline_bytes > 0, "{name}");
        assert!(part.peak_bytes >= part.baseline_bytes, "{name}: {part:?}");
        assert_eq!(part.gflop.is_some(), part.part == Part::Unet, "{name}");
    }
    let log = text(&output.stderr);
    let progress = "part=\"unet\" repetition=2 of=2";
    assert!(log.contains(progress), "no progress on the log: {log}");
}

#[test]
fn a_report_can_be_compared_with_another() {
    let weights = tiny();
    let parts = ["--parts", "mel,vae-encode", "--threads", "1"];
    let first = bench(Some(weights.path()), &[&parts[..], &["--json"]].concat());
    assert!(first.status.success(), "{}", text(&first.stderr));
    let file = weights.path().join("report.json");
    std::fs::write(&file, &first.stdout).unwrap();
    let compare = ["--compare", file.to_str().unwrap()];
    let second = bench(Some(weights.path()), &[&parts[..], &compare].concat());
    assert!(second.status.success(), "{}", text(&second.stderr));
    let table = text(&second.stdout);
    assert!(
        table.contains("SYNTHETIC WEIGHTS") && table.contains("ratio"),
        "{table}"
    );
    let row = table.lines().find(|line| line.starts_with("vae-encode")).unwrap();
    let ratio: f64 = row.split_whitespace().last().unwrap().parse().unwrap();
    assert!(ratio > 0.0, "{table}");
}

#[test]
fn saved_tensors_suffice_to_check_another_implementation() {
    let weights = tiny();
    let dir = tempfile::tempdir().unwrap();
    let save = ["--parts", "unet", "--save", dir.path().to_str().unwrap()];
    let output = bench(Some(weights.path()), &save);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let path = dir.path().join("unet.safetensors");
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    assert_eq!(tensors["latents"].dims(), [1, 13, 2, 8, 8]);
    assert_eq!(tensors["audio"].dims()[..2], [1, 2]);
    assert_eq!(tensors["output"].dims(), [1, 4, 2, 8, 8]);
    assert!(tensors.contains_key("timestep"));
}

#[test]
fn without_weights_small_ones_are_made() {
    let output = bench(None, &["--parts", "mel"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("SYNTHETIC WEIGHTS"));
}

#[test]
fn wrong_arguments_are_refused_before_any_work() {
    let weights = tiny();
    for (args, expected) in [
        (&["--parts", "unet,soup"][..], "soup"),
        (&["--resolution", "100"][..], "multiple of 64"),
        (&["--compare", "/nowhere/report.json"][..], "/nowhere/report.json"),
        (&["--save", "/nowhere/folder"][..], "/nowhere/folder"),
        (&["--engine", "/nowhere/engine"][..], "/nowhere/engine"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latentfarm-worker"));
        let output = command
            .args(["bench", "--weights"])
            .arg(weights.path())
            .args(args)
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            text(&output.stderr)
        );
        assert!(
            text(&output.stderr).contains(expected),
            "{}",
            text(&output.stderr)
        );
    }
    let missing = bench(Some(Path::new("/nowhere/weights")), &[]);
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing.stderr));
}
