//! Tests of the command `latentfarm-worker memtest` on tiny weights.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::process::{Command, Output};

use latentsync::synth::{Size, synthesize};
use serde_json::Value;

fn memtest(args: &[&str]) -> Output {
    let weights = tempfile::tempdir().unwrap();
    synthesize(weights.path(), Size::Tiny, 3).unwrap();
    Command::new(env!("CARGO_BIN_EXE_latentfarm-worker"))
        .args(["memtest", "--windows", "50", "--steps", "2"])
        .arg("--weights")
        .arg(weights.path())
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_correct_engine_passes_every_check() {
    let output = memtest(&["--json"]);
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], true);
    assert_eq!(report["checks"].as_array().unwrap().len(), 7);
    assert_eq!(report["baselines"].as_array().unwrap().len(), 50);
    assert!(report["guidance"]["on"]["peak_bytes"].as_u64().unwrap() > 0);
    assert!(
        text(&output.stderr).contains("window 50 of 50"),
        "no progress on the log"
    );
}

#[test]
fn a_leaking_engine_fails_the_checks() {
    let output = memtest(&["--engine-arg", "--fault", "--engine-arg", "leak=1048576"]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{table}{}", text(&output.stderr));
    assert!(table.contains("verdict: FAILED"), "{table}");
    assert!(
        table.contains("memory in use grows by 1.00 MiB a window"),
        "{table}"
    );
}

#[test]
fn an_engine_that_hangs_or_ends_gives_an_error_and_no_verdict() {
    for (fault, message) in [
        ("hang@denoise#1", "nothing for 2 s"),
        ("abort@denoise#1", "the engine process ended"),
        ("kill@vae-decode#1", "the engine process ended"),
    ] {
        let limit = ["--silence-limit", "2", "--engine-arg", "--fault", "--engine-arg"];
        let output = memtest(&[&limit[..], &[fault]].concat());
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{log}");
        assert!(log.contains(message), "{fault}: {log}");
        assert!(!text(&output.stdout).contains("verdict"), "{fault}");
    }
}

#[test]
fn a_machine_that_cannot_run_the_checks_has_its_own_exit_code() {
    for args in [["--device", "cuda:0"], ["--device", "sim:/nowhere"]] {
        let output = memtest(&args);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{log}");
        assert!(log.contains(args[1]) || log.contains("/nowhere"), "{log}");
    }
    let output = memtest(&["--engine", "/nowhere/engine"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}
