//! Finds the programs that a local farm starts.

use std::path::{Path, PathBuf};

/// A program of the release is not where it belongs.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("cannot find out where this program lies")]
    OwnPath(#[source] std::io::Error),
    #[error(
        "`{}` is missing: latentfarm, latentfarm-worker and latentfarm-engine must lie in one folder \
         (build them with `cargo build --release`)", path.display()
    )]
    Missing { path: PathBuf },
}

/// Path of `latentfarm-worker`, which lies beside this program with `latentfarm-engine`.
pub fn worker_program() -> Result<PathBuf, ToolError> {
    let own = std::env::current_exe().map_err(ToolError::OwnPath)?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    for name in ["latentfarm-worker", "latentfarm-engine"] {
        let path = folder.join(name);
        if !path.is_file() {
            return Err(ToolError::Missing { path });
        }
    }
    Ok(folder.join("latentfarm-worker"))
}
