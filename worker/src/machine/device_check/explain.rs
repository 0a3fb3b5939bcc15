//! Why a check failed, in one line for people, with what to do about it.
//!
//! The names of the errors are those of the driver's `CUresult` and of the dynamic linker's messages.

use super::attempt::{Outcome, describe};

/// Texts that an engine's log contains, each with what they mean and what to do. The first that is found counts.
const KNOWN: [(&[&str], &str); 9] = [
    (
        &["libcuda.so.1: cannot open shared object file"],
        "the driver's library libcuda.so.1 is missing: install the NVIDIA driver; in a container, allow it with \
         NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ),
    (
        &["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"],
        "the NVIDIA driver and its library are of different versions: restart the machine",
    ),
    (
        &["CUDA_ERROR_SYSTEM_NOT_READY"],
        "the links between the GPUs are not ready: start the service nvidia-fabricmanager",
    ),
    (
        &["CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_DEVICE"],
        "the driver shows the GPU to its tools and not to programs: if it is in MIG mode, make an instance \
         (`nvidia-smi mig -cgi PROFILE -C`); in a container, pass the GPU to it",
    ),
    (
        &["CUDA_ERROR_DEVICE_UNAVAILABLE"],
        "another program has the GPU for itself: end it, or allow several with `nvidia-smi -c DEFAULT`",
    ),
    (
        &[
            "CUDA_ERROR_OPERATING_SYSTEM",
            "CUDA_ERROR_NOT_PERMITTED",
            "Permission denied",
        ],
        "this user may not use the GPU: grant reading and writing of /dev/nvidia*",
    ),
    (
        &[
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        ],
        "the NVIDIA driver is older than the engine's CUDA: install a newer driver",
    ),
    (
        &[
            "CUDA_ERROR_INSUFFICIENT_DRIVER",
            "CUDA driver version is insufficient",
        ],
        "the NVIDIA driver is older than the engine's CUDA: install a newer driver",
    ),
    (
        &[
            "CUDA_ERROR_NO_BINARY_FOR_GPU",
            "CUDA_ERROR_INVALID_PTX",
            "CUDA_ERROR_NOT_FOUND",
            "CUDA_ERROR_JIT_COMPILER_NOT_FOUND",
        ],
        "the engine has no kernels for this GPU: build one for its compute capability with `deploy/build-cuda`",
    ),
];

/// What the dynamic linker writes about a library that is missing, before its name.
const MISSING_LIBRARY: &str = "error while loading shared libraries: ";
/// What the engine writes about a device before the cause.
const CANNOT_USE: &str = "cannot use device `cuda:0`: ";

/// Returns why the check failed; `driver` is the version of the GPU driver.
pub(super) fn explain(outcome: &Outcome, driver: Option<&str>) -> String {
    let text = match outcome {
        Outcome::Passed => return "the check was passed".to_owned(),
        Outcome::NotStarted(error) => format!("the engine cannot be started: {error}"),
        Outcome::Hung(limit) => format!(
            "the GPU could not be opened within {} s: its driver hangs; restart the machine",
            limit.as_secs()
        ),
        Outcome::Ended(status, log) => {
            cause(log).unwrap_or_else(|| format!("the engine {}: {}", describe(*status), last_line(log)))
        }
    };
    match driver {
        Some(version) => format!("{text} (driver {version})"),
        None => text,
    }
}

/// Returns the cause that a log tells, if it is a known one.
fn cause(log: &str) -> Option<String> {
    let is_told = |texts: &[&str]| texts.iter().any(|text| log.contains(text));
    if let Some((_, meaning)) = KNOWN.iter().find(|(texts, _)| is_told(texts)) {
        return Some((*meaning).to_owned());
    }
    if let Some((_, rest)) = log.split_once(MISSING_LIBRARY) {
        let library = rest.split(':').next().unwrap_or(rest).trim();
        return Some(format!(
            "the library {library} is missing: run `deploy/cuda-libs`, which puts it beside the engine"
        ));
    }
    let (_, rest) = log.rsplit_once(CANNOT_USE)?;
    let line = rest.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn last_line(log: &str) -> &str {
    let mut lines = log.lines().rev().map(str::trim);
    lines.find(|line| !line.is_empty()).unwrap_or("its log is empty")
}
