//! Users and machines with less than the tests' own: another user, a small file system, no network.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Render, program};

/// User and group id of `nobody`, who owns nothing.
const NOBODY: &str = "65534";

/// Says on standard error why a test does nothing on this machine.
pub fn skip(why: &str) {
    latentfarm_common::console::tell(format_args!("SKIPPED: {why}"));
}

/// Returns how a render is started as a user whom file permissions bind: as `nobody` if the tests run as root, or
/// as the same user. Returns `None`, and says so, if `nobody` cannot run the programs here.
pub fn as_plain_user() -> Option<fn(Render) -> Render> {
    if !nix::unistd::geteuid().is_root() {
        return Some(|render| render);
    }
    let user = [
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
        "--no-new-privs",
    ];
    let as_nobody = |render: Render| {
        let user = [
            "--reuid",
            NOBODY,
            "--regid",
            NOBODY,
            "--clear-groups",
            "--no-new-privs",
        ];
        render.under("setpriv", user)
    };
    let mut trial = Command::new("setpriv");
    trial.args(user).arg(program("latentfarm")).arg("--version");
    if succeeds(&mut trial) {
        return Some(as_nobody);
    }
    skip("the tests run as root, and another user cannot run the programs that they were built to");
    None
}

/// Returns the arguments of `unshare` that start a command with `options` in namespaces of its own, after `setup`, a
/// line of shell. Returns `None`, and says so, if this machine does not permit that.
pub fn unshared(options: &[&str], setup: &str) -> Option<Vec<String>> {
    let user: &[&str] = if nix::unistd::geteuid().is_root() {
        &[]
    } else {
        &["--user", "--map-root-user"]
    };
    let script = format!("{setup} && exec \"$@\"");
    let args: Vec<String> = user
        .iter()
        .chain(options)
        .chain(&["sh", "-c", &script, "sh"])
        .map(|&arg| arg.to_owned())
        .collect();
    if succeeds(Command::new("unshare").args(&args).arg("true")) {
        return Some(args);
    }
    skip("this machine permits no namespaces: `unshare` fails");
    None
}

/// Returns the arguments of `unshare` that start a command for which `folder` is an empty file system of `bytes`.
/// `None` is as in [`unshared`].
pub fn with_small_disk(folder: &Path, bytes: u64) -> Option<Vec<String>> {
    let mount = format!("mount -t tmpfs -o size={bytes} tmpfs '{}'", folder.display());
    unshared(&["--mount"], &mount)
}

fn succeeds(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
