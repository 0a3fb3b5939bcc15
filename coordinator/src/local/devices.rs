//! The devices that this machine can render on, as `latentfarm-worker probe --json` prints them: the coordinator
//! itself links no GPU driver. `latentfarm render` asks once, before it chooses its workers.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use latentfarm_common::child::die_with_parent;
use serde::Deserialize;

/// How long the probe may take. The first start of an engine on a new kind of GPU takes up to 40 s, in which the
/// driver compiles its kernels.
pub const PROBE_LIMIT: Duration = Duration::from_mins(2);

/// A device that a worker of this machine can render on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LocalDevice {
    /// What names the device to `latentfarm-worker run --device`: `cpu`, `cuda:0` or `sim:PATH`.
    pub selector: String,
    /// What names it to people: `cuda:0 NVIDIA L4`.
    #[serde(rename = "device")]
    pub name: String,
}

/// The part of the worker program's report that a render needs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LocalDevices {
    /// One for each worker that `latentfarm-worker run` would start with the same `--device`.
    #[serde(rename = "workers")]
    pub devices: Vec<LocalDevice>,
    /// Why it would start none.
    #[serde(default)]
    pub refused: Option<String>,
    /// Why the CPU was chosen.
    #[serde(default)]
    pub note: Option<String>,
    /// Why no GPU driver was found, which is usual on a machine without a GPU.
    #[serde(default)]
    pub gpus_missing: Option<String>,
}

/// Why the devices of this machine are not known.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    #[error("`{program} probe` cannot be started: {source}")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("`{program} probe` did not end within {} s", limit.as_secs())]
    Silent { program: String, limit: Duration },
    #[error("`{program} probe` printed no report ({source}): is it of another release?")]
    NoReport {
        program: String,
        #[source]
        source: serde_json::Error,
    },
}

impl LocalDevice {
    pub fn is_cpu(&self) -> bool {
        self.selector == "cpu"
    }
}

impl LocalDevices {
    /// Runs `WORKER probe --json`, with this value of `--device` if there is one. A probe that takes longer than
    /// `limit` is killed.
    pub fn find(worker: &Path, device: Option<&str>, limit: Duration) -> Result<Self, DevicesError> {
        let program = worker.display().to_string();
        let start = |source| DevicesError::Start {
            program: program.clone(),
            source,
        };
        let mut command = Command::new(worker);
        command
            .args(["probe", "--json"])
            .args(device.map(|list| format!("--device={list}")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        die_with_parent(&mut command);
        let mut child = command.spawn().map_err(start)?;
        let stdout = child.stdout.take();
        let (sender, printed) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut text));
            // After the limit nobody waits for it.
            let _nobody = sender.send(read.map(|_| text));
        });
        let text = printed.recv_timeout(limit);
        // A probe that has printed its report is not needed any more. Its exit code only says whether a task
        // would fit now.
        let _already_ended = child.kill();
        let _already_ended = child.wait();
        let text = text
            .map_err(|_| DevicesError::Silent {
                program: program.clone(),
                limit,
            })?
            .map_err(start)?;
        serde_json::from_str(&text).map_err(|source| DevicesError::NoReport { program, source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    fn program(folder: &Path, script: &str) -> PathBuf {
        let program = folder.join("worker");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn the_report_counts_whatever_the_exit_code_and_further_fields() {
        let folder = tempfile::tempdir().unwrap();
        let json = r#"{"host": {}, "gpus": [], "gpus_missing": null, "note": null, "refused": null, "workers":
            [{"device": "cuda:0 NVIDIA L4", "selector": "cuda:0", "free_mib": 100, "problem": null}]}"#;
        let script =
            format!("test \"$*\" = 'probe --json --device=auto,cpu' && cat <<'END'\n{json}\nEND\nexit 3");
        let worker = program(folder.path(), &script);
        let found = LocalDevices::find(&worker, Some("auto,cpu"), PROBE_LIMIT).unwrap();
        let expected = LocalDevice {
            selector: "cuda:0".to_owned(),
            name: "cuda:0 NVIDIA L4".to_owned(),
        };
        assert_eq!((found.devices, found.note), (vec![expected], None));
    }

    #[test]
    fn a_probe_that_fails_or_hangs_is_an_error_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let failing = program(folder.path(), "exit 3");
        let error = LocalDevices::find(&failing, None, PROBE_LIMIT).unwrap_err();
        assert!(error.to_string().contains("printed no report"), "{error}");
        let hanging = program(folder.path(), "exec sleep 1000");
        let error = LocalDevices::find(&hanging, None, Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
        let error = LocalDevices::find(&folder.path().join("absent"), None, PROBE_LIMIT).unwrap_err();
        assert!(error.to_string().contains("cannot be started"), "{error}");
    }
}
