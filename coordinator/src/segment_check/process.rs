//! The child processes that look at segments: some are kept, each for one segment at a time, and those that crash or
//! hang are replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::frame::PictureDifference;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::pipe::{self, PipeError};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::finding::{BadSegment, Finding};
use super::messages::{CheckReply, CheckRequest, LocalPictures};

/// A segment holds a few hundred frames, each of which takes some tens of milliseconds. A child that takes longer hangs.
const TIME_LIMIT: Duration = Duration::from_mins(10);
/// A machine may be short of processes or memory for a moment.
const START_ATTEMPTS: u32 = 5;
const START_PAUSE: Duration = Duration::from_secs(1);

/// A reply is a few sentences at most, in bytes.
const LONGEST_REPLY: u32 = 1 << 20;
const OTHER_REPLY: &str = "the process that looks at it answered something else";

/// The idle child processes. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct SegmentProcesses {
    program: PathBuf,
    idle: Arc<Mutex<Vec<Child>>>,
}

impl SegmentProcesses {
    /// Processes of `program`, which is this one if there is none given. They are started when they are needed.
    pub(crate) fn new(program: Option<&Path>) -> Self {
        Self {
            // The kernel's name of the running program is right even if its file was replaced by a newer one.
            program: program.unwrap_or(Path::new("/proc/self/exe")).to_owned(),
            idle: Arc::default(),
        }
    }

    /// Has a child decode a segment, and compare its pictures with the expected ones if these are given. A segment on
    /// which a child ends or hangs is broken.
    ///
    /// # Errors
    /// If no child can be started.
    pub(crate) async fn check(
        &self,
        path: PathBuf,
        blob: BlobRef,
        range: FrameRange,
        pictures: Option<LocalPictures>,
    ) -> io::Result<Finding> {
        let request = CheckRequest::Check {
            path,
            blob,
            range,
            pictures: pictures.map(Box::new),
        };
        let broken = |reason| Finding::Bad(BadSegment::Broken(reason));
        Ok(match self.ask(&request).await? {
            Ok(CheckReply::Checked(finding)) => finding,
            Ok(CheckReply::Compared(_)) => broken(OTHER_REPLY.to_owned()),
            Err(ended) => broken(ended),
        })
    }

    /// Has a child compare the first pictures of two segments. The inner error is one clause.
    ///
    /// # Errors
    /// If no child can be started.
    pub(crate) async fn compare(
        &self,
        one: PathBuf,
        other: PathBuf,
    ) -> io::Result<Result<PictureDifference, String>> {
        let asked = self.ask(&CheckRequest::Compare { one, other }).await?;
        Ok(asked.and_then(|reply| match reply {
            CheckReply::Compared(compared) => compared,
            CheckReply::Checked(_) => Err(OTHER_REPLY.to_owned()),
        }))
    }

    /// Has a child answer one request. The inner error says in one clause how the child ended instead.
    async fn ask(&self, request: &CheckRequest) -> io::Result<Result<CheckReply, String>> {
        let mut child = self.child().await?;
        Ok(match timeout(TIME_LIMIT, exchange(&mut child, request)).await {
            Ok(Ok(reply)) => {
                self.idle().push(child);
                Ok(reply)
            }
            Ok(Err(error)) => {
                // It has ended, or what it wrote is no reply.
                let _already_ended = child.start_kill();
                let ended = match child.wait().await {
                    Ok(status) => format!("the process that decodes it ended ({status})"),
                    Err(unknown) => format!("the process that decodes it is lost ({unknown})"),
                };
                Err(format!("{ended}: {}", one_line(&error)))
            }
            // Dropping the child kills it.
            Err(_elapsed) => Err(format!(
                "the process that decodes it did not answer within {} minutes",
                TIME_LIMIT.as_secs() / 60
            )),
        })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Child>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<Child> {
        self.idle().pop()
    }

    async fn child(&self) -> io::Result<Child> {
        // One that has ended while it was idle was killed by somebody else.
        while let Some(mut child) = self.take_idle() {
            if matches!(child.try_wait(), Ok(None)) {
                return Ok(child);
            }
        }
        let mut attempts = 1;
        loop {
            match self.spawn() {
                Err(error) if attempts < START_ATTEMPTS => {
                    tracing::warn!(%error, "cannot start a process that checks segments yet");
                    attempts += 1;
                    tokio::time::sleep(START_PAUSE).await;
                }
                done => return done,
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .arg("check-segments")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C in the terminal must reach the coordinator only. If that dies, the child's input ends, and so does
            // the child; a signal at the death of the parent would come when the thread that starts it ends.
            .process_group(0)
            .kill_on_drop(true);
        command.spawn()
    }
}

async fn exchange(child: &mut Child, request: &CheckRequest) -> Result<CheckReply, PipeError> {
    let closed = || PipeError::Io(io::ErrorKind::BrokenPipe.into());
    let input = child.stdin.as_mut().ok_or_else(closed)?;
    input.write_all(&pipe::encode(request)?).await?;
    input.flush().await?;
    let output = child.stdout.as_mut().ok_or_else(closed)?;
    let body = pipe::read_body(output, LONGEST_REPLY).await?;
    wire::decode(&body).map_err(PipeError::Wire)
}
