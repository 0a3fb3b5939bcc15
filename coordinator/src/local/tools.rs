//! Finds the programs that a local farm starts.

use std::path::{Path, PathBuf};

/// A program of the release cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("cannot find the folder of this program")]
    OwnPath(#[source] std::io::Error),
    #[error(
        "`{}` is missing: latentfarm, latentfarm-worker and latentfarm-engine must be in the same folder \
         (`cargo build --release` builds all three)", path.display()
    )]
    Missing { path: PathBuf },
}

/// Returns the path of `latentfarm-worker`, which is in the folder of this program together with
/// `latentfarm-engine`.
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
