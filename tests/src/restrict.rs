//! Users and machines with less than the tests' own: another user, a small file system, no network.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Render, program};

/// Arguments of `setpriv` that run a command as `nobody`, who owns nothing.
const AS_NOBODY: [&str; 6] = [
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--no-new-privs",
];

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
    let mut trial = Command::new("setpriv");
    trial.args(AS_NOBODY).arg(program("latentfarm")).arg("--version");
    if succeeds(&mut trial) {
        return Some(|render| render.under("setpriv", AS_NOBODY));
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

/// Starts `unshare` with these arguments, and with a command that keeps the namespaces until it is killed. They are there
/// when this returns.
pub fn namespace_holder<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Child {
    let mut holder = Command::new("unshare")
        .args(args)
        .args(["sh", "-c", "echo ready; exec sleep 36000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start unshare");
    let mut line = String::new();
    let stdout = holder.stdout.take().expect("stdout");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    holder
}

/// Writes a file that takes all that is left of its disk, as another program may do.
pub fn fill_disk(path: &Path) {
    let mut file = File::create(path).expect("a file");
    let block = vec![1; 1 << 12];
    while file.write_all(&block).is_ok() {}
}

/// A small file system in memory. Only the renders that are started with it see it, and it goes when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    /// A process that keeps the file system mounted in its namespace.
    holder: Child,
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts an empty file system of `size`, such as `100m`, on `folder`. `None` is as in [`unshared`].
    pub fn mount(folder: &Path, size: &str) -> Option<Self> {
        let mount = format!("mount -t tmpfs -o size={size} tmpfs '{}'", folder.display());
        let args = unshared(&["--mount"], &mount)?;
        Some(Self {
            holder: namespace_holder(args),
            folder: folder.to_owned(),
        })
    }

    /// Lets a render see the file system.
    pub fn with(&self, render: Render) -> Render {
        let pid = self.holder.id().to_string();
        let mut args = vec!["--target", &pid, "--mount"];
        if !nix::unistd::geteuid().is_root() {
            args.extend(["--user", "--preserve-credentials"]);
        }
        render.under("nsenter", args)
    }

    /// Returns the path of a file on the file system, as other processes reach it.
    pub fn path(&self, name: &str) -> PathBuf {
        let folder = self.folder.strip_prefix("/").unwrap_or(&self.folder);
        Path::new("/proc")
            .join(self.holder.id().to_string())
            .join("root")
            .join(folder)
            .join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _already_gone = self.holder.kill();
        let _already_gone = self.holder.wait();
    }
}

fn succeeds(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
