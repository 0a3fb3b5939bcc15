//! Runs the scripts for machines with GPUs where there is none: `deploy/gpu-check` on the CPU, and what the
//! others refuse.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn script(name: &str, args: &[&str]) -> Output {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    Command::new(deploy.join(name)).args(args).output().unwrap()
}

/// What `deploy/gpu-check` did on the CPU.
struct GpuCheck {
    output: Output,
    /// The lines of its results.
    rows: Vec<Value>,
}

impl GpuCheck {
    fn run(profile: &str, engine: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (engine, folder) = (engine.to_str().unwrap(), folder.path().to_str().unwrap());
        let output = script(
            "gpu-check",
            &[profile, "--device", "cpu", "--engine", engine, folder],
        );
        let results = fs::read_to_string(Path::new(folder).join("results.jsonl")).unwrap();
        let rows = results.lines().map(|line| serde_json::from_str(line).unwrap());
        Self {
            output,
            rows: rows.collect(),
        }
    }

    /// Returns the verdict of every stage in their order.
    fn verdicts(&self) -> Vec<(&str, &str)> {
        let all = self
            .rows
            .iter()
            .filter_map(|row| Some((row["stage"].as_str()?, row["verdict"].as_str()?)));
        all.collect()
    }

    fn table(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }
}

fn engine() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_latentfarm-engine"))
}

#[test]
fn every_stage_of_the_full_check_runs_on_the_cpu() {
    let check = GpuCheck::run("full", &engine());
    let expected = [
        "open", "synth", "goldens", "layers", "full", "need", "oom", "leak", "speed",
    ];
    let mut expected: Vec<_> = expected.map(|stage| (stage, "passed")).to_vec();
    expected.push(("kernels", "skipped"));
    assert_eq!(check.verdicts(), expected, "{:?}", check.output);

    let rows_of = |stage: &str| check.rows.iter().filter(|row| row["stage"] == stage).count();
    let mut named: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for row in &check.rows {
        named
            .entry(row["check"].as_str().unwrap_or_default())
            .or_default()
            .push(row);
    }
    // One plan without guidance and six with it.
    assert_eq!(
        named["need"].iter().filter(|row| row["stage"] == "need").count(),
        7
    );
    assert_eq!(named["part"].len(), 2 * 4 * 3);
    assert_eq!(named["layer"].len() % 3, 0);
    assert_eq!(rows_of("speed"), 3 + 1);
    let table = check.table();
    for figure in [
        "bf16: 4 compared, 0 wrong",
        "predicted",
        "ran out of memory at audio, as it must",
        "3 windows: the same picture",
    ] {
        assert!(table.contains(figure), "{figure} is missing in\n{table}");
    }
}

#[test]
fn a_stage_that_fails_is_named_and_the_others_run() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("engine");
    let text = format!(
        "#!/bin/sh\nif [ \"$4\" = parts ]; then echo 'error: a \"wrong\" distance' >&2; exit 1; fi\nexec '{}' \"$@\"\n",
        engine().display()
    );
    fs::write(&broken, text).unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let check = GpuCheck::run("quick", &broken);
    let expected = [
        ("open", "passed"),
        ("synth", "passed"),
        ("goldens", "FAILED"),
        ("need", "passed"),
        ("speed", "passed"),
    ];
    assert_eq!(check.verdicts(), expected, "{:?}", check.output);
    assert_eq!(check.output.status.code(), Some(1));
    let reason = check
        .rows
        .iter()
        .find_map(|row| (row["stage"] == "goldens").then(|| row["failed"].as_str())?);
    assert_eq!(reason, Some("exit code 1: error: a \"wrong\" distance"));
    assert!(
        check.table().contains("parts FAILED: exit code 1"),
        "{}",
        check.table()
    );
}

#[test]
fn a_capability_whose_kernels_run_on_one_chip_alone_is_refused() {
    for (capability, reason) in [
        ("90", "build for 80"),
        ("120", "build for 80"),
        ("70", "one of 75"),
        ("all", "one of 75"),
    ] {
        let output = script("build-cuda", &[capability]);
        assert_eq!(output.status.code(), Some(2), "{capability}");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(reason), "{capability}: {message}");
    }
}

#[test]
fn cuda_libraries_do_not_replace_a_folder_of_someone_else() {
    let folder = tempfile::tempdir().unwrap();
    let output = script("cuda-libs", &[folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(folder.path().is_dir());
}
