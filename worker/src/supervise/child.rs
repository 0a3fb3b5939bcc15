//! One child process and the pipes to it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use latentfarm_common::wire::pipe::{self, PipeError};
use latentfarm_common::wire::{self, Message};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::engine::{environment, is_out_of_memory};

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
    /// Threads for its computations.
    pub threads: usize,
}

/// How a child ended.
#[derive(Clone, Debug)]
pub struct ChildEnd {
    status: Option<ExitStatus>,
    /// Its last log lines.
    pub last_words: String,
}

impl ChildEnd {
    /// A failed allocation aborts the process; the kernel kills it when the machine or its group runs out.
    pub fn is_out_of_memory(&self) -> bool {
        is_out_of_memory(&self.last_words) || self.status.and_then(|status| status.signal()) == Some(9)
    }
}

impl std::fmt::Display for ChildEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => write!(f, "still running")?,
        }
        if !self.last_words.is_empty() {
            write!(f, "; its last words: {}", self.last_words)?;
        }
        Ok(())
    }
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
        })
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
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
            end: ChildEnd { status, last_words },
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
mod tests {
    use super::*;
    use latentfarm_common::wire::outcome::Control;

    fn shell(script: &str) -> ChildCommand {
        ChildCommand {
            name: "test",
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            threads: 1,
        }
    }

    #[tokio::test]
    async fn messages_come_back_through_a_child() {
        let mut child = Child::spawn(&shell("exec cat")).unwrap();
        child.send(&Control::Drain).await.unwrap();
        let reply: Control = child.receive(Duration::from_secs(20)).await.unwrap();
        assert_eq!(reply, Control::Drain);
        assert!(child.is_alive());
    }

    #[tokio::test]
    async fn a_closed_child_ends_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("ended");
        let child = Child::spawn(&shell(&format!("cat; touch {}", mark.display()))).unwrap();
        child.close().await;
        assert!(mark.exists(), "it was killed before it could leave");
    }

    #[tokio::test]
    async fn an_aborted_allocation_is_out_of_memory() {
        let script = "echo 'memory allocation of 99 bytes failed' >&2; kill -ABRT $$";
        let mut child = Child::spawn(&shell(script)).unwrap();
        let error = child
            .receive::<Control>(Duration::from_secs(20))
            .await
            .unwrap_err();
        let ChildError::Ended { end, .. } = error else {
            panic!("{error}")
        };
        assert!(end.is_out_of_memory(), "{end}");
    }

    #[tokio::test]
    async fn a_killed_child_is_taken_for_out_of_memory_and_a_failed_one_is_not() {
        let mut child = Child::spawn(&shell("kill -KILL $$")).unwrap();
        let error = child
            .receive::<Control>(Duration::from_secs(20))
            .await
            .unwrap_err();
        assert!(
            matches!(error, ChildError::Ended { ref end, .. } if end.is_out_of_memory()),
            "{error}"
        );
        let mut child = Child::spawn(&shell("echo 'no such thing' >&2; exit 1")).unwrap();
        let error = child
            .receive::<Control>(Duration::from_secs(20))
            .await
            .unwrap_err();
        assert!(
            matches!(error, ChildError::Ended { ref end, .. } if !end.is_out_of_memory()),
            "{error}"
        );
        assert!(error.to_string().contains("no such thing"), "{error}");
    }

    #[tokio::test]
    async fn a_silent_child_is_killed() {
        let mut child = Child::spawn(&shell("exec sleep 1000")).unwrap();
        let error = child
            .receive::<Control>(Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(matches!(error, ChildError::Silent { .. }), "{error}");
        child.process.wait().await.unwrap();
    }

    #[tokio::test]
    async fn output_that_is_no_message_is_an_error() {
        let mut child = Child::spawn(&shell("echo hello world, this is not the protocol")).unwrap();
        let error = child
            .receive::<Control>(Duration::from_secs(20))
            .await
            .unwrap_err();
        assert!(matches!(error, ChildError::Garbled { .. }), "{error}");
    }
}
