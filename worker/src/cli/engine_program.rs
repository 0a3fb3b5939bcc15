//! The engine program and its threads, as the arguments of every subcommand that starts an engine name them.

use std::num::NonZero;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use latentfarm_engine::Precision;

/// Returns the program that the user named, or else the one called `name` in the folder of this program.
pub(super) fn program_path(named: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find out where this program lies")?;
    Ok(named.map_or_else(|| own.with_file_name(name), Path::to_owned))
}

/// Refuses an engine program that does not exist.
pub(super) fn ensure_installed(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        path.is_file(),
        "the engine `{}` is missing: give --engine",
        path.display()
    );
    Ok(())
}

/// Returns the engine's arguments for the number type that the user named, if one was.
pub(super) fn dtype_args(named: Option<Precision>) -> Vec<String> {
    named.map_or_else(Vec::new, |dtype| vec!["--dtype".to_owned(), dtype.to_string()])
}

/// Returns the number of threads that the user named, or else that of the cores which this process may use.
pub(super) fn thread_count(named: Option<u32>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    named.map_or_else(cores, |threads| threads as usize)
}
