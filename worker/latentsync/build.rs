//! Compiles the kernels of `src/kernels/cuda` to PTX if the feature `cuda` is on. The driver compiles the PTX
//! for the GPU of the machine when an engine starts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const SOURCE: &str = "src/kernels/cuda/kernels.cu";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    for variable in ["CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile();
    }
}

fn compile() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a folder for what is made"))
        .join("kernels.ptx");
    let compiler = env::var_os("CUDA_HOME").map_or_else(
        || PathBuf::from("nvcc"),
        |home| PathBuf::from(home).join("bin/nvcc"),
    );
    // This is the compute capability of the oldest GPU that the engine supports; `deploy/build-cuda` sets the
    // same.
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".to_owned());
    println!("cargo::rustc-env=LATENTSYNC_CUDA_CAPABILITY={capability}");
    println!("cargo::rustc-env=LATENTSYNC_CUDA_TOOLKIT={}", toolkit(&compiler));
    let status = Command::new(&compiler)
        .args(["-ptx", "-O3", "-std=c++17", "--fmad=true"])
        .arg(format!("-arch=compute_{capability}"))
        .arg("-o")
        .arg(&out)
        .arg(SOURCE)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} could not compile {SOURCE}: {status}", compiler.display()),
        Err(error) => panic!(
            "cannot start {}: {error}; `deploy/build-cuda` brings it",
            compiler.display()
        ),
    }
    assert!(
        fs::metadata(&out).is_ok_and(|made| made.len() > 0),
        "{} is empty",
        out.display()
    );
}

/// Returns the version of the toolkit that the compiler belongs to, such as `13.0`.
fn toolkit(compiler: &Path) -> String {
    let output = Command::new(compiler).arg("--version").output();
    let text = output.map_or_else(
        |error| panic!("cannot start {}: {error}", compiler.display()),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let version = text
        .split_once("release ")
        .and_then(|(_, rest)| rest.split_once(','));
    let Some((version, _)) = version else {
        panic!("{} does not tell its version: {text}", compiler.display())
    };
    version.trim().to_owned()
}
