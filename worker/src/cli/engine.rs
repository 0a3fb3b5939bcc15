//! Finding the engine program, and the threads that it gets: what every command that starts one needs.

use std::num::NonZero;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The program that is named, or the one called `name` beside this program.
pub(super) fn beside(named: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find out where this program lies")?;
    Ok(named.map_or_else(|| own.with_file_name(name), Path::to_owned))
}

/// Refuses an engine program that is not there.
pub(super) fn check_program(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        path.is_file(),
        "the engine `{}` is missing: give --engine",
        path.display()
    );
    Ok(())
}

/// The threads that are named, or one for each core.
pub(super) fn threads(named: Option<u32>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    named.map_or_else(cores, |threads| threads as usize)
}
