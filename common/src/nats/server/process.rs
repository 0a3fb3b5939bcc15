//! The process of an embedded server: a child that ends with this process, and holds the folder's lock until
//! then.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use crate::child::die_with_parent_by;

/// A server process, which may have ended.
#[derive(Debug)]
pub(super) struct ServerProcess {
    pid: Pid,
    /// True until the process is reaped, as its process id must not be signalled after that.
    alive: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    watcher: Option<thread::JoinHandle<()>>,
}

impl ServerProcess {
    /// Starts `binary -c config` as a child process. The parent-death signal is sent when the *thread* that
    /// spawned the child ends, so a thread of its own spawns the child and waits for it.
    pub(super) async fn spawn(binary: &Path, config: &Path, stderr: File, lock: &File) -> io::Result<Self> {
        let mut command = Command::new(binary);
        command
            .arg("-c")
            .arg(config)
            .env("GOMEMLIMIT", "512MiB")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        bind_to_parent(&mut command, lock.as_raw_fd());
        let (started, start) = oneshot::channel();
        let (exited, exit) = watch::channel(None);
        let alive = Arc::new(Mutex::new(true));
        let guard = Arc::clone(&alive);
        let watcher = thread::Builder::new()
            .name("nats-server".to_owned())
            .spawn(move || match command.spawn() {
                Ok(child) => {
                    let pid = pid_of(&child);
                    // The receiver may have been dropped; the child is waited for all the same.
                    let _ = started.send(Ok(pid));
                    let status = reap(child, pid, &guard);
                    exited.send_replace(Some(status));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })?;
        let pid = start.await.map_err(io::Error::other)??;
        Ok(Self {
            pid,
            alive,
            exit,
            watcher: Some(watcher),
        })
    }

    pub(super) fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// The exit status of the process, once it has ended.
    pub(super) fn exit(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.exit.clone()
    }

    /// Sends a signal, unless the process has ended.
    pub(super) fn signal(&self, signal: Signal) {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        if *alive && let Err(error) = kill(self.pid, signal) {
            tracing::warn!(%error, %signal, "cannot signal nats-server");
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        // This takes milliseconds. After it the folder is free for another server.
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    // Process ids are positive and fit.
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// Waits for the end without reaping, then reaps under the lock, so that no signal can hit a reused id.
fn reap(mut child: Child, pid: Pid, alive: &Mutex<bool>) -> ExitStatus {
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let mut alive = alive.lock().unwrap_or_else(PoisonError::into_inner);
    *alive = false;
    child.wait().unwrap_or_default()
}

/// Makes the server end with this process, gives it a process group of its own (Ctrl-C is for the coordinator
/// alone, which drains before it stops the server), and passes the lock on to it.
fn bind_to_parent(command: &mut Command, lock: RawFd) {
    die_with_parent_by(command, Signal::SIGTERM);
    command.process_group(0);
    let keep_lock = move || {
        #[expect(unsafe_code, reason = "a descriptor outlives the closure's borrow")]
        // SAFETY: the descriptor is open: the caller keeps the lock file until `spawn` has returned.
        let lock = unsafe { BorrowedFd::borrow_raw(lock) };
        fcntl(lock, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    #[expect(unsafe_code, reason = "only the child can keep its copy of the lock open")]
    // SAFETY: between fork and exec the closure makes only a system call, and allocates nothing.
    unsafe {
        command.pre_exec(keep_lock);
    }
}
