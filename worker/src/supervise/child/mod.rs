//! A child process and the two pipes to it. The runner starts the media child and the engine with it and
//! keeps them between tasks; messages go over the child's standard input and output, its log comes over its
//! standard error.

mod exit;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use latentfarm_common::awake;
use latentfarm_common::wire::pipe::{self, MAX_PIPE_BYTES, PipeError};
use latentfarm_common::wire::{self, Message};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use latentfarm_common::host;
use latentfarm_engine::environment;

pub use exit::{ChildExit, ExitCause};

/// How many of the last lines of a child's log are kept to explain its end.
const KEPT_LOG_LINES: usize = 12;
/// How long a child that has closed its output may take to exit by itself.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// How to start a child.
#[derive(Clone, Debug)]
pub struct ChildCommand {
    /// The child's name in the log: `engine` or `media`.
    pub name: &'static str,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Variables that are set in the child's environment, beside those that limit its threads.
    pub envs: Vec<(String, String)>,
    /// The number of threads that the child computes with.
    pub threads: usize,
}

/// Why a child could not be started or gave no message.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("cannot start the {name} process `{}`", program.display())]
    Start {
        name: &'static str,
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the {name} process ended: {exit}")]
    Ended { name: &'static str, exit: ChildExit },
    #[error("the {name} process sent nothing for {} s and was killed", limit.as_secs())]
    Silent { name: &'static str, limit: Duration },
    #[error("the {name} process sent something other than a message")]
    InvalidMessage {
        name: &'static str,
        #[source]
        source: PipeError,
    },
}

/// A running child, which is killed if it is dropped.
#[derive(Debug)]
pub struct Child {
    sender: ChildSender,
    receiver: ChildReceiver,
}

/// The half of a child that takes messages.
#[derive(Debug)]
pub struct ChildSender {
    name: &'static str,
    stdin: ChildStdin,
}

/// The half of a child that gives messages, with what explains its end.
#[derive(Debug)]
pub struct ChildReceiver {
    name: &'static str,
    process: tokio::process::Child,
    stdout: BufReader<ChildStdout>,
    /// The last [`KEPT_LOG_LINES`] lines of the child's log.
    log: Arc<Mutex<VecDeque<String>>>,
    log_reader: JoinHandle<()>,
    /// The value of [`host::oom_kills`] when the child started.
    kills_before: Option<u64>,
}

impl Child {
    /// Starts a child that dies with this process.
    ///
    /// Must be called on a thread that lives as long as the child should: the kernel's parent-death signal
    /// watches the spawning thread. The supervisor's runtime runs on its main thread.
    pub fn spawn(command: &ChildCommand) -> Result<Self, ChildError> {
        Self::spawn_with(command, None)
    }

    /// As [`Child::spawn`], with an open file that the child inherits, and with it a lock on the file.
    pub fn spawn_with(command: &ChildCommand, inherited: Option<&File>) -> Result<Self, ChildError> {
        let name = command.name;
        let start = |source| ChildError::Start {
            name,
            program: command.program.clone(),
            source,
        };
        let mut process = Command::new(&command.program);
        process
            .args(&command.args)
            .envs(environment(command.threads))
            .envs(command.envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        latentfarm_common::child::die_with_parent(process.as_std_mut());
        if let Some(file) = inherited {
            latentfarm_common::child::keep_open(process.as_std_mut(), file).map_err(start)?;
        }
        let mut process = process.spawn().map_err(start)?;
        let missing = || start(io::Error::other("a pipe is missing"));
        let stdin = process.stdin.take().ok_or_else(missing)?;
        let stdout = BufReader::new(process.stdout.take().ok_or_else(missing)?);
        let stderr = BufReader::new(process.stderr.take().ok_or_else(missing)?);
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let log_reader = tokio::spawn(forward_log(name, stderr, Arc::clone(&log)));
        tracing::debug!(child = name, pid = process.id(), "child started");
        Ok(Self {
            sender: ChildSender { name, stdin },
            receiver: ChildReceiver {
                name,
                process,
                stdout,
                log,
                log_reader,
                kills_before: host::oom_kills(),
            },
        })
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.receiver.process.try_wait(), Ok(None))
    }

    /// The child's process id; `None` once its end has been noticed.
    pub fn pid(&self) -> Option<u32> {
        self.receiver.process.id()
    }

    /// Drops the kept log lines. Called before a new task, as lines of an earlier one do not explain the
    /// child's end.
    pub fn clear_log(&self) {
        self.receiver.lock_log().clear();
    }

    /// Sends a message; an error, with the child's exit status, if the child takes none any more.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), ChildError> {
        if self.sender.send(message).await? {
            Ok(())
        } else {
            Err(self.receiver.ended().await)
        }
    }

    /// Returns the child's next message; an error if the child ends, or if it sends nothing for `limit` and
    /// is killed.
    pub async fn receive<M: Message>(&mut self, limit: Duration) -> Result<M, ChildError> {
        if let Some(message) = awake::within(limit, self.receiver.receive()).await {
            return message;
        }
        Err(self.receiver.kill_silent(limit))
    }

    /// Lends both halves apart, for a session in which both sides send at the same time.
    pub fn split(&mut self) -> (&mut ChildSender, &mut ChildReceiver) {
        (&mut self.sender, &mut self.receiver)
    }

    /// Ends an idle child: closes its input, at which it exits, and kills it if it has not exited after
    /// `EXIT_GRACE`. Waits until the process is gone, so that no zombie stays behind.
    pub async fn close(self) {
        drop(self.sender);
        let mut process = self.receiver.process;
        if tokio::time::timeout(EXIT_GRACE, process.wait()).await.is_err() {
            let _already_gone = process.kill().await;
        }
    }
}

impl ChildSender {
    /// Sends a message. Returns false if the child reads no more: [`ChildReceiver::receive`] then returns how
    /// it ended.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<bool, ChildError> {
        let bytes = pipe::encode(message).map_err(|source| ChildError::InvalidMessage {
            name: self.name,
            source,
        })?;
        Ok(self.stdin.write_all(&bytes).await.is_ok())
    }
}

impl ChildReceiver {
    /// Returns the child's next message, whenever it comes; an error if the child ends. Must not be called
    /// again if the future was dropped before its end: the message that was being read is lost.
    pub async fn receive<M: Message>(&mut self) -> Result<M, ChildError> {
        let name = self.name;
        let invalid = |source| ChildError::InvalidMessage { name, source };
        match pipe::read_body(&mut self.stdout, MAX_PIPE_BYTES).await {
            Ok(body) => wire::decode(&body).map_err(PipeError::Wire).map_err(invalid),
            Err(PipeError::Io(_)) => Err(self.ended().await),
            Err(source) => Err(invalid(source)),
        }
    }

    /// Kills a child that has sent nothing for `limit`, and returns that as an error.
    pub fn kill_silent(&mut self, limit: Duration) -> ChildError {
        let _already_gone = self.process.start_kill();
        ChildError::Silent {
            name: self.name,
            limit,
        }
    }

    async fn ended(&mut self) -> ChildError {
        let status = match tokio::time::timeout(EXIT_GRACE, self.process.wait()).await {
            Ok(status) => status.ok(),
            Err(_elapsed) => {
                let _already_gone = self.process.start_kill();
                None
            }
        };
        // The log ends when the process does; its last lines explain why.
        let _unread = tokio::time::timeout(EXIT_GRACE, &mut self.log_reader).await;
        let log_tail = Vec::from(self.lock_log().clone()).join(" | ");
        ChildError::Ended {
            name: self.name,
            exit: ChildExit::new(status, log_tail, self.kills_before),
        }
    }

    fn lock_log(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies a child's log to this process's log line by line, and keeps the last lines in `log`.
async fn forward_log(
    name: &'static str,
    stderr: BufReader<tokio::process::ChildStderr>,
    log: Arc<Mutex<VecDeque<String>>>,
) {
    let mut lines = stderr.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::info!(target: "child", "{name}: {line}");
        let mut kept = log.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LOG_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
}

#[cfg(test)]
mod tests;
