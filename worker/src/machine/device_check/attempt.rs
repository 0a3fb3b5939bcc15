//! One start of an engine's check, and how it ended.

use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use latentfarm_common::child::die_with_parent;
use latentfarm_engine::is_out_of_memory;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::probe::Gpu;

/// The most bytes of a log that are read.
const LOG_BYTES: u64 = 64 << 10;
/// How long the rest of a log is waited for when the engine has ended.
const LOG_LIMIT: Duration = Duration::from_secs(2);

/// How a check ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Passed,
    /// The program could not be started.
    NotStarted(io::Error),
    /// The engine ended; this is its log.
    Ended(ExitStatus, String),
    /// The engine did not end within the limit and was killed.
    Hung(Duration),
}

impl Outcome {
    /// Whether the engine may have found too little memory free. cuBLAS reports a lack of memory for its workspace as if it
    /// could not be initialised.
    pub(super) fn is_out_of_memory(&self) -> bool {
        let Self::Ended(_, log) = self else { return false };
        is_out_of_memory(log) || log.contains("CUBLAS_STATUS_NOT_INITIALIZED")
    }
}

/// Runs the check of `engine` on a GPU, and waits for its end.
pub(super) fn attempt(engine: &Path, gpu: &Gpu, limit: Duration) -> Outcome {
    let mut command = Command::new(engine);
    command
        .args(["--device", "cuda:0", "check", "open"])
        .env("CUDA_VISIBLE_DEVICES", &gpu.uuid)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    die_with_parent(&mut command);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::NotStarted(error),
    };
    let pid = child.id();
    // The log is read beside the wait, so that a full pipe does not stop the engine.
    let stderr = child.stderr.take();
    let log = beside(move || stderr.map(read_log).unwrap_or_default());
    let end = beside(move || child.wait());
    let status = match end.recv_timeout(limit) {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Outcome::NotStarted(error),
        Err(_elapsed) => {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX));
            let _already_gone = kill(pid, Signal::SIGKILL);
            return Outcome::Hung(limit);
        }
    };
    if status.success() {
        return Outcome::Passed;
    }
    // Another process may hold the pipe open.
    Outcome::Ended(status, log.recv_timeout(LOG_LIMIT).unwrap_or_default())
}

/// Runs `work` on a thread of its own, and returns where its result arrives.
fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // The caller may have stopped waiting.
        let _nobody_waits = sender.send(work());
    });
    receiver
}

fn read_log(stderr: ChildStderr) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is missing in the explanation.
    let _partial = stderr.take(LOG_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Describes how a process ended that was not killed by us.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
