//! One child process and the pipes to it.

mod end;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use latentfarm_common::wire::pipe::{self, PipeError};
use latentfarm_common::wire::{self, Message};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use latentfarm_common::host;
use latentfarm_engine::environment;

pub use end::{Cause, ChildEnd};

/// Last lines of a child's log that are kept to explain its end.
const KEPT_LOG_LINES: usize = 12;
/// A child that has closed its output is given so long to end by itself.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// How to start a child.
#[derive(Clone, Debug)]
pub struct ChildCommand {
    /// Name in the log: `engine` or `media`.
    pub name: &'static str,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Set in its environment, beside what the threads ask for.
    pub envs: Vec<(String, String)>,
    /// Threads for its computations.
    pub threads: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("cannot start the {name} process `{}`", program.display())]
    Start {
        name: &'static str,
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the {name} process ended: {end}")]
    Ended { name: &'static str, end: ChildEnd },
    #[error("the {name} process said nothing for {} s and was killed", limit.as_secs())]
    Silent { name: &'static str, limit: Duration },
    #[error("the {name} process sent something else than a message")]
    Garbled {
        name: &'static str,
        #[source]
        source: PipeError,
    },
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    process: tokio::process::Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    log: Arc<Mutex<VecDeque<String>>>,
    log_reader: JoinHandle<()>,
    /// [`host::oom_kills`] when it started.
    kills_before: Option<u64>,
}

impl Child {
    /// Starts a child that dies with this process.
    ///
    /// Must be called on a thread that lives as long as the child should: the kernel's parent-death signal
    /// watches the spawning thread. The supervisor's runtime runs on its main thread.
    pub fn spawn(command: &ChildCommand) -> Result<Self, ChildError> {
        let start = |source| ChildError::Start {
            name: command.name,
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
        let mut process = process.spawn().map_err(start)?;
        let missing = || start(io::Error::other("a pipe is missing"));
        let stdin = process.stdin.take().ok_or_else(missing)?;
        let stdout = BufReader::new(process.stdout.take().ok_or_else(missing)?);
        let stderr = process.stderr.take().ok_or_else(missing)?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let log_reader = tokio::spawn(forward_log(
            command.name,
            BufReader::new(stderr),
            Arc::clone(&log),
        ));
        tracing::debug!(child = command.name, pid = process.id(), "child started");
        Ok(Self {
            name: command.name,
            process,
            stdin,
            stdout,
            log,
            log_reader,
            kills_before: host::oom_kills(),
        })
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Begins a new task: what it said before does not explain its end any more.
    pub fn forget_words(&self) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), ChildError> {
        let (mut sender, mut receiver) = self.split();
        if sender.send(message).await? {
            Ok(())
        } else {
            Err(receiver.ended().await)
        }
    }

    /// The child's next message; an error if it ends, or says nothing for `limit`.
    pub async fn receive<M: Message>(&mut self, limit: Duration) -> Result<M, ChildError> {
        let (_, mut receiver) = self.split();
        if let Ok(message) = tokio::time::timeout(limit, receiver.receive()).await {
            return message;
        }
        Err(receiver.silent(limit))
    }

    /// Both directions on their own, for a conversation in which both sides speak at once.
    pub fn split(&mut self) -> (ChildSender<'_>, ChildReceiver<'_>) {
        let name = self.name;
        let sender = ChildSender {
            name,
            stdin: &mut self.stdin,
        };
        let receiver = ChildReceiver {
            name,
            process: &mut self.process,
            stdout: &mut self.stdout,
            log: &self.log,
            log_reader: &mut self.log_reader,
            kills_before: self.kills_before,
        };
        (sender, receiver)
    }

    /// Ends an idle child: it leaves when its input ends, or is killed after a grace period. Waits until it is
    /// gone, so that no zombie stays behind.
    pub async fn close(self) {
        let Self {
            stdin, mut process, ..
        } = self;
        drop(stdin);
        if tokio::time::timeout(EXIT_GRACE, process.wait()).await.is_err() {
            let _already_gone = process.kill().await;
        }
    }
}

/// The way to a child.
#[derive(Debug)]
pub struct ChildSender<'a> {
    name: &'static str,
    stdin: &'a mut ChildStdin,
}

impl ChildSender<'_> {
    /// False where the child does not listen any more: how it ended is for the receiver to say.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<bool, ChildError> {
        let bytes = pipe::frame(message).map_err(|source| ChildError::Garbled {
            name: self.name,
            source,
        })?;
        Ok(self.stdin.write_all(&bytes).await.is_ok())
    }
}

/// The way from a child.
#[derive(Debug)]
pub struct ChildReceiver<'a> {
    name: &'static str,
    process: &'a mut tokio::process::Child,
    stdout: &'a mut BufReader<ChildStdout>,
    log: &'a Mutex<VecDeque<String>>,
    log_reader: &'a mut JoinHandle<()>,
    kills_before: Option<u64>,
}

impl ChildReceiver<'_> {
    /// The child's next message, whenever it comes; an error if the child ends. Not to be called again where it
    /// was dropped before its end: the message that it was reading is lost.
    pub async fn receive<M: Message>(&mut self) -> Result<M, ChildError> {
        let name = self.name;
        let garbled = |source| ChildError::Garbled { name, source };
        match self.read_body().await {
            Ok(body) => wire::decode(&body).map_err(PipeError::Wire).map_err(garbled),
            Err(PipeError::Io(_)) => Err(self.ended().await),
            Err(source) => Err(garbled(source)),
        }
    }

    /// Kills a child that has said nothing for `limit`.
    pub fn silent(&mut self, limit: Duration) -> ChildError {
        let _already_gone = self.process.start_kill();
        ChildError::Silent {
            name: self.name,
            limit,
        }
    }

    async fn read_body(&mut self) -> Result<Vec<u8>, PipeError> {
        let mut prefix = [0_u8; 4];
        self.stdout.read_exact(&mut prefix).await?;
        let mut body = vec![0_u8; pipe::body_len(prefix)?];
        self.stdout.read_exact(&mut body).await?;
        Ok(body)
    }

    async fn ended(&mut self) -> ChildError {
        let status = match tokio::time::timeout(EXIT_GRACE, self.process.wait()).await {
            Ok(status) => status.ok(),
            Err(_elapsed) => {
                let _already_gone = self.process.start_kill();
                None
            }
        };
        // The log ends when the process does; what it said last explains why.
        let _unread = tokio::time::timeout(EXIT_GRACE, &mut *self.log_reader).await;
        let lines = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let last_words = lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
        ChildError::Ended {
            name: self.name,
            end: ChildEnd::new(status, last_words, self.kills_before),
        }
    }
}

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
