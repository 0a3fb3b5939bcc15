//! Tests the CUDA kernels without a GPU. Their source is compiled for the host (see `cuda_source/emulate.h`),
//! and every kernel is run under sanitizers on small and awkward shapes, in every type, and compared with its
//! formula in double precision.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;
use std::process::Command;

/// Compiles the kernels with `sanitizers`, runs them, and returns the line that is printed for each case.
fn run(sanitizers: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = root.join("tests/cuda_source");
    let kernels = root.join("src/kernels/cuda/kernels.cu");
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("kernels");
    let built = Command::new("c++")
        .args(["-std=c++20", "-O1", "-g1", "-pthread", "-Wno-unknown-pragmas"])
        .arg(format!("-fsanitize={sanitizers}"))
        .arg(format!("-DSOURCE=\"{}\"", kernels.display()))
        .arg("-I")
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .arg(source.join("main.cpp"))
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let output = Command::new(&program).output().unwrap();
    let (lines, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let wrong: Vec<_> = lines.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert!(
        output.status.success() && errors.is_empty(),
        "{wrong:#?}\n{errors}"
    );
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn kernels_compute_their_formulas_and_touch_nothing_else() {
    let lines = run("address,undefined");
    for dtype in ["f32", "f16", "bf16"] {
        let cases = lines
            .iter()
            .filter(|line| line.starts_with(&format!("ok {dtype} ")));
        assert!(cases.count() >= 40, "few cases in {dtype}");
    }
}

#[test]
fn threads_of_a_kernel_do_not_race() {
    run("thread");
}
