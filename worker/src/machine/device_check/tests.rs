use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn gpu() -> Gpu {
    Gpu::for_tests(0, "GPU-1")
}

/// Makes an engine that is a shell script.
fn engine(dir: &Path, name: &str, script: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn checker(engines: Vec<PathBuf>, dir: &Path) -> DeviceChecker {
    DeviceChecker {
        engines,
        driver: Some("550.54".to_owned()),
        passes: Some(dir.join("cache/passes.json")),
        limit: Duration::from_secs(30),
    }
}

fn reason_of(script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let engines = vec![engine(dir.path(), "engine", script)];
    checker(engines, dir.path()).engine_for(&gpu()).unwrap_err()
}

#[test]
fn each_failure_is_one_line_that_says_what_to_do() {
    let library = "echo \"$0: error while loading shared libraries: libcublas.so.13: cannot open shared object file: \
                   No such file or directory\" >&2; exit 127";
    assert_eq!(
        reason_of(library),
        "the library libcublas.so.13 is missing: run `deploy/cuda-libs`, which puts it beside the engine (driver 550.54)"
    );
    let log = |error: &str| {
        format!(
            "echo 'ERROR latentfarm_engine: cannot use device `cuda:0`: DriverError({error}, \"x\")' >&2; exit 3"
        )
    };
    for (script, wanted) in [
        (library.replace("libcublas.so.13", "libcuda.so.1"), "install the NVIDIA driver"),
        (log("CUDA_ERROR_NO_DEVICE"), "nvidia-smi mig -cgi"),
        (log("CUDA_ERROR_DEVICE_UNAVAILABLE"), "nvidia-smi -c DEFAULT"),
        (log("CUDA_ERROR_UNSUPPORTED_PTX_VERSION"), "install a newer driver (driver 550.54)"),
        (log("CUDA_ERROR_NO_BINARY_FOR_GPU"), "deploy/build-cuda"),
        (log("CUDA_ERROR_OPERATING_SYSTEM"), "/dev/nvidia*"),
        (log("CUDA_ERROR_SYSTEM_NOT_READY"), "nvidia-fabricmanager"),
        (log("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"), "restart the machine"),
        (
            "echo 'cannot use device `cuda:0`: NVIDIA T4 is older than this engine was built for' >&2; exit 3".to_owned(),
            "NVIDIA T4 is older",
        ),
        ("echo 'what is this' >&2; exit 5".to_owned(), "ended with exit code 5: what is this"),
        ("kill -SEGV $$".to_owned(), "was ended by signal 11: its log is empty"),
    ] {
        let reason = reason_of(&script);
        assert!(reason.contains(wanted) && !reason.contains('\n'), "{script}: {reason}");
    }
}

#[test]
fn an_engine_that_hangs_is_killed_and_one_that_does_not_exist_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let hanging = engine(dir.path(), "engine", "exec sleep 1000");
    let checker = DeviceChecker {
        limit: Duration::from_millis(50),
        ..checker(vec![hanging], dir.path())
    };
    let reason = checker.engine_for(&gpu()).unwrap_err();
    assert!(reason.contains("its driver hangs"), "{reason}");
    let missing = DeviceChecker {
        engines: vec![dir.path().join("missing")],
        ..checker
    };
    let reason = missing.engine_for(&gpu()).unwrap_err();
    assert!(reason.contains("cannot be started"), "{reason}");
}

#[test]
fn the_first_engine_that_passes_is_used_and_only_passes_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let count = "echo \"$CUDA_VISIBLE_DEVICES $*\" >>\"$(dirname \"$0\")/$(basename \"$0\").calls\"";
    let calls = |name: &str| fs::read_to_string(dir.path().join(format!("{name}.calls"))).unwrap_or_default();
    let new = engine(dir.path(), "new", &format!("{count}; echo older >&2; exit 3"));
    let old = engine(dir.path(), "old", count);
    let first = checker(vec![new.clone(), old.clone()], dir.path());
    assert_eq!(first.engine_for(&gpu()).unwrap(), old);
    assert_eq!(calls("old"), "GPU-1 --device cuda:0 check open\n");
    assert_eq!(first.engine_for(&gpu()).unwrap(), old);
    assert_eq!(calls("new").lines().count(), 2, "a failure is tried again");
    assert_eq!(calls("old").lines().count(), 1, "a pass is not");
    // Another driver, another GPU or another engine is a new case.
    let updated = DeviceChecker {
        driver: Some("580.1".to_owned()),
        ..first.clone()
    };
    updated.engine_for(&gpu()).unwrap();
    assert_eq!(calls("old").lines().count(), 2);
    let other = Gpu {
        uuid: "GPU-2".to_owned(),
        ..gpu()
    };
    first.engine_for(&other).unwrap();
    assert_eq!(calls("old").lines().count(), 3);
    engine(dir.path(), "old", &format!("{count}; true"));
    first.engine_for(&gpu()).unwrap();
    assert_eq!(calls("old").lines().count(), 4);
}

#[test]
fn a_full_gpu_is_no_broken_one_and_is_checked_again() {
    let dir = tempfile::tempdir().unwrap();
    for error in ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_NOT_INITIALIZED"] {
        let full = format!("echo x >>\"$(dirname \"$0\")/calls-{error}\"; echo '{error}' >&2; exit 3");
        let engine = engine(dir.path(), "engine", &full);
        let checker = checker(vec![engine.clone()], dir.path());
        assert_eq!(checker.engine_for(&gpu()).unwrap(), engine);
        assert_eq!(checker.engine_for(&gpu()).unwrap(), engine);
        let calls = fs::read_to_string(dir.path().join(format!("calls-{error}"))).unwrap();
        assert_eq!(calls.lines().count(), 2);
    }
}
