//! Starts and signals worker processes, for the private farm of a render and for `latentfarm bench`.

use std::io;
use std::process::Stdio;

use latentfarm_common::child::die_with_parent;
use latentfarm_common::nats::identity::SEED_VARIABLE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Starts a worker that connects with the seed of its nkey. The kernel kills the worker if this process dies,
/// and dropping the child kills it. It is in a process group of its own: Ctrl-C in the terminal must reach
/// the coordinator only, which drains its workers itself.
pub(crate) fn spawn_worker(command: &mut Command, nkey_seed: Option<&str>) -> io::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(seed) = nkey_seed {
        command.env(SEED_VARIABLE, seed);
    }
    die_with_parent(command.as_std_mut());
    command.spawn()
}

/// Sends a signal to a child, unless it has ended already.
pub(crate) fn signal_child(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _already_ended = kill(Pid::from_raw(pid), signal);
    }
}
