//! The limits that the system sets to a process or a user (`ulimit`), as far as they decide whether a program can do
//! its work at all. The programs check them before they start threads or other programs, which would fail with an
//! error that names nothing.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

/// What a program needs of each limited resource.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Address space of the largest process, in MiB. Most of it is mapped and never used.
    pub address_space_mib: u64,
    /// File descriptors of one process.
    pub open_files: u64,
    /// Threads and processes together, beside those that the user runs already.
    pub threads: u64,
}

/// A limit that is too low for the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowLimit {
    /// The address space is limited.
    #[error(
        "the address space of a process is limited to {limit_mib} MiB, and {needed_mib} MiB are needed: raise the limit \
         with `ulimit -v`, or lift it with `ulimit -v unlimited`"
    )]
    AddressSpace {
        /// The limit.
        limit_mib: u64,
        /// What the program needs.
        needed_mib: u64,
    },
    /// The number of file descriptors is limited.
    #[error("a process may open {limit} files, and {needed} are needed: raise the hard limit of `ulimit -n`")]
    OpenFiles {
        /// The limit.
        limit: u64,
        /// What the program needs.
        needed: u64,
    },
    /// The number of the user's threads is limited.
    #[error(
        "this user may run {limit} processes and threads and runs {running}, and {needed} more are needed: raise the \
         limit with `ulimit -u`, or end other programs"
    )]
    Threads {
        /// The limit.
        limit: u64,
        /// The number of threads that the user runs already.
        running: u64,
        /// What the program needs beside them.
        needed: u64,
    },
}

/// Checks the limits of this process, after it has raised its own limit of open files as far as it may.
///
/// # Errors
/// The first limit that is too low.
pub fn check(needs: Needs) -> Result<(), LowLimit> {
    let limit_mib = soft_limit(Resource::RLIMIT_AS) >> 20;
    if limit_mib < needs.address_space_mib {
        return Err(LowLimit::AddressSpace {
            limit_mib,
            needed_mib: needs.address_space_mib,
        });
    }
    raise_open_files();
    let limit = soft_limit(Resource::RLIMIT_NOFILE);
    if limit < needs.open_files {
        return Err(LowLimit::OpenFiles {
            limit,
            needed: needs.open_files,
        });
    }
    // The kernel does not bind root to this limit.
    let limit = soft_limit(Resource::RLIMIT_NPROC);
    if geteuid().is_root() || limit == u64::MAX {
        return Ok(());
    }
    let running = running_threads();
    if limit < running + needs.threads {
        return Err(LowLimit::Threads {
            limit,
            running,
            needed: needs.threads,
        });
    }
    Ok(())
}

/// Raises the soft limit of open files to the hard one, for this process and its children.
fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

/// Returns the limit that binds now; an unknown one counts as none.
fn soft_limit(resource: Resource) -> u64 {
    getrlimit(resource).map_or(u64::MAX, |(soft, _)| soft)
}

/// Counts the threads of this user's processes.
fn running_threads() -> u64 {
    let user = geteuid().as_raw();
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let own = processes.filter(|process| process.uid().is_ok_and(|owner| owner == user));
    // A process may have ended meanwhile.
    let threads = own.filter_map(|process| u64::try_from(process.stat().ok()?.num_threads).ok());
    threads.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_of_this_process_are_among_the_users() {
        let before = running_threads();
        assert!(before >= 1);
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let waiting = std::thread::spawn(move || receiver.recv());
        assert!(running_threads() >= 2);
        drop(sender);
        assert!(waiting.join().unwrap().is_err());
    }
}
