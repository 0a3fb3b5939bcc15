//! Tests `latentfarm-engine check` on the CPU: its output, and its exit code if a check fails.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;
use std::process::{Command, Output};

use latentsync::synth::{Size, synthesize};
use serde_json::Value;

fn check(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_latentfarm-engine"))
        .args(["--device", "cpu", "check"])
        .args(args)
        .output()
        .unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn weights(dir: &Path) -> String {
    synthesize(dir, Size::Tiny, 1).unwrap();
    dir.display().to_string()
}

#[test]
fn windows_are_rendered_and_every_request_has_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights(dir.path());
    let output = check(&[
        "windows",
        "--weights",
        &weights,
        "--windows",
        "3",
        "--plan",
        "streamed",
    ]);
    assert!(output.status.success(), "{output:?}");
    let lines = lines(&output);
    let names: Vec<_> = lines.iter().map(|line| line["check"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "predicted",
            "open",
            "load",
            "audio",
            "window",
            "window",
            "window",
            "need",
            "steady"
        ]
    );
    let need = lines[0]["result"]["need_mib"].as_f64().unwrap();
    let windows = &lines[4..7];
    for window in windows {
        let memory = &window["result"]["memory"];
        assert!(memory["reserved_peak"].as_f64().unwrap() <= need, "{window}");
        assert!(memory["live_peak"].as_f64().unwrap() > memory["live"].as_f64().unwrap());
        assert_eq!(window["result"]["faces"], windows[0]["result"]["faces"]);
    }
    let result = |line: usize| &lines[line]["result"];
    assert_eq!(result(7)["predicted_mib"].as_f64(), Some(need));
    assert!(result(7)["measured_mib"].as_f64().unwrap() <= need);
    assert_eq!(result(8)["windows"], 3);
    assert_eq!(result(8)["same_picture"], true);
}

#[test]
fn a_request_that_fails_is_a_line_and_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights(dir.path());
    let output = check(&[
        "windows",
        "--weights",
        &weights,
        "--windows",
        "1",
        "--resolution",
        "100",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let lines = lines(&output);
    assert!(lines.last().unwrap()["result"]["failed"].is_object(), "{lines:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("1 of 3 checks failed"),
        "{output:?}"
    );
}

#[test]
fn every_network_is_compared_in_every_type_and_the_cpu_agrees_with_itself() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights(dir.path());
    let output = check(&["parts", "--weights", &weights]);
    assert!(output.status.success(), "{output:?}");
    let lines = lines(&output);
    assert_eq!(lines.len(), 4 * 3);
    for line in lines {
        let result = &line["result"];
        let distance = result["distance"].as_f64().unwrap();
        // Half types differ, or they were not what computed.
        assert_eq!(distance > 0.0, result["dtype"] != "f32", "{result}");
    }
}

#[test]
fn layers_are_compared_at_the_published_widths() {
    let output = check(&["layers", "--shrink", "8"]);
    assert!(output.status.success(), "{output:?}");
    let lines = lines(&output);
    let of = |dtype: &str| -> Vec<&Value> {
        let results = lines.iter().map(|line| &line["result"]);
        results.filter(|result| result["dtype"] == dtype).collect()
    };
    assert_eq!(of("f32").len(), of("f16").len());
    assert_eq!(3 * of("bf16").len(), lines.len());
    for result in of("f16").into_iter().chain(of("bf16")) {
        // Half types differ, or they were not what computed.
        assert!(result["distance"].as_f64().unwrap() > 1e-5, "{result}");
    }
    assert!(
        of("f32")
            .iter()
            .any(|result| result["case"].as_str().unwrap().contains("960"))
    );
}

#[test]
fn what_only_a_gpu_has_is_not_checked_on_the_cpu() {
    for args in [&["kernels"][..], &["hold", "--leave", "100"]] {
        let output = check(args);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("for GPUs only"),
            "{output:?}"
        );
    }
}

#[test]
fn an_opened_device_tells_what_it_is_and_a_missing_one_why_it_cannot_be_used() {
    let output = check(&["open"]);
    assert!(output.status.success(), "{output:?}");
    let line = lines(&output).remove(0);
    assert_eq!(
        (line["check"].as_str(), line["result"]["device"].as_str()),
        (Some("open"), Some("cpu"))
    );
    assert_eq!(line["result"]["products_in"], serde_json::json!(["f32"]));

    let missing = Command::new(env!("CARGO_BIN_EXE_latentfarm-engine"))
        .args(["--device", "sim:/nowhere.gpu", "check", "open"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("/nowhere.gpu"),
        "{missing:?}"
    );
}
