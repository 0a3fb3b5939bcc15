//! Ctrl-Z and `fg`: the children stop with this process and go on with it.
//!
//! The children of a render are in process groups of their own, so that Ctrl-C reaches the coordinator alone. So does
//! Ctrl-Z, and nats-server, workers and engines would compute on without it. The first signal handler of a process
//! therefore stops them, then the process itself, and lets them go on when the shell has let the process go on.

use std::io;

use nix::sys::signal::{Signal, kill, killpg, raise};
use nix::unistd::{Pid, getpid};
use procfs::process::{Process, all_processes};
use tokio::signal::unix::{SignalKind, signal};

/// Makes SIGTSTP stop the children and this process, until it is continued. A process that was started with the signal
/// ignored goes on ignoring it.
///
/// # Errors
/// If the handler cannot be installed. It must be called in a tokio runtime.
pub fn on_signal() -> io::Result<()> {
    if is_ignored(Signal::SIGTSTP) {
        return Ok(());
    }
    let mut suspend = signal(SignalKind::from_raw(Signal::SIGTSTP as i32))?;
    tokio::spawn(async move {
        while suspend.recv().await.is_some() {
            let stopped = children();
            signal_all(&stopped, Signal::SIGSTOP);
            // This returns when the process is continued.
            if let Err(error) = raise(Signal::SIGSTOP) {
                tracing::warn!(%error, "cannot stop this process");
            }
            signal_all(&stopped, Signal::SIGCONT);
        }
    });
    Ok(())
}

/// Whether this process was started with the signal ignored, as `nohup` does with SIGHUP.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let status = Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.sigign & (1 << (signal as i32 - 1)) != 0)
}

/// A child of this process, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ChildProcess {
    pid: Pid,
    /// Whether the child leads a process group, which its own children share.
    leads_group: bool,
}

/// Returns the live children of this process.
fn children() -> Vec<ChildProcess> {
    let own = getpid().as_raw();
    // A process may have ended meanwhile.
    let stats = all_processes().into_iter().flatten();
    let stats = stats.filter_map(|process| process.ok()?.stat().ok());
    let children = stats.filter(|stat| stat.ppid == own).map(|stat| ChildProcess {
        pid: Pid::from_raw(stat.pid),
        leads_group: stat.pgrp == stat.pid,
    });
    children.collect()
}

fn signal_all(children: &[ChildProcess], signal: Signal) {
    for child in children {
        // A child may have ended meanwhile.
        let _gone = if child.leads_group {
            killpg(child.pid, signal)
        } else {
            kill(child.pid, signal)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    #[test]
    fn children_are_listed_with_their_groups() {
        let start = |command: &mut Command| command.stdin(Stdio::piped()).spawn().unwrap();
        let mut shared = start(&mut Command::new("cat"));
        let mut leader = start(Command::new("cat").process_group(0));
        let listed = children();
        for (child, leads_group) in [(&mut shared, false), (&mut leader, true)] {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            assert!(listed.contains(&ChildProcess { pid, leads_group }), "{listed:?}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
