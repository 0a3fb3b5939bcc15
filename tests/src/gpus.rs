//! Stand-ins for GPUs and for their engines: what a worker chooses, checks and starts on a machine with GPUs is run on one
//! without.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::program;

/// A machine with one GPU, and an engine for it that is a shell script.
#[derive(Debug)]
pub struct StandInGpu {
    engine: PathBuf,
    gpus: PathBuf,
}

impl StandInGpu {
    /// Makes a GPU of 24 GiB. `check` is what the engine does when it is checked, and `serve` what it does as the engine of a
    /// worker, both as shell commands, in which `$ENGINE` is the real engine.
    #[track_caller]
    pub fn new(dir: &Path, name: &str, check: &str, serve: &str) -> Self {
        let engine = dir.join(format!("{name}-engine"));
        let real = program("latentfarm-engine");
        let script = format!(
            "#!/bin/sh\nENGINE='{}'\ncase \"$*\" in\n*' check open') {check} ;;\n*) {serve} ;;\nesac\n",
            real.display()
        );
        fs::write(&engine, script).expect("write an engine");
        fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).expect("make it executable");
        let gpus = dir.join(format!("{name}-gpus.json"));
        let machine = json!({
            "driver": "580.1",
            "gpus": [{
                "uuid": format!("GPU-{name}"),
                "name": "Stand-in 24",
                "free_mib": 24 << 10,
                "total_mib": 24 << 10,
            }],
        });
        fs::write(&gpus, machine.to_string()).expect("write the GPUs");
        Self { engine, gpus }
    }

    /// The options of `latentfarm-worker run` with which it finds this GPU and its engine.
    pub fn options(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        [
            "--gpus-from",
            &path(&self.gpus),
            "--engine-cuda",
            &path(&self.engine),
        ]
        .map(str::to_owned)
        .into()
    }

    /// The same as a part of the value of `latentfarm render --worker`.
    pub fn spec(&self) -> String {
        format!(
            "gpus-from={},engine-cuda={}",
            self.gpus.display(),
            self.engine.display()
        )
    }
}
