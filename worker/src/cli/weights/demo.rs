//! The demo weights that come with this program: `weights demo` writes or finds them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use latentsync::checkpoint::{cached_demo, write_demo};

use crate::cli::caches::user_caches;

/// Returns the folder of the demo weights in this user's cache, and writes them there if they are missing.
///
/// # Errors
/// Fails if this user has no such folder, or if it cannot be written.
fn demo_folder() -> anyhow::Result<PathBuf> {
    let caches = user_caches().context(
        "there is no place for the demo weights, since neither XDG_CACHE_HOME nor HOME is an absolute path: write them \
         to a folder with --out DIR",
    )?;
    Ok(cached_demo(&caches)?)
}

/// Writes the demo weights to `out`, or finds them in the cache. Returns the line to print.
pub(super) fn write_or_find(out: Option<&Path>) -> anyhow::Result<String> {
    if let Some(out) = out {
        write_demo(out)?;
        return Ok(format!("DEMO WEIGHTS in {}", out.display()));
    }
    Ok(demo_folder()?.display().to_string())
}
