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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::messages::{CheckReply, CheckRequest};
use super::{BadSegment, ExpectedPictures};

/// A segment holds a few hundred frames, each of which takes some tens of milliseconds. A child that takes longer hangs.
const TIME_LIMIT: Duration = Duration::from_mins(10);
/// A machine may be short of processes or memory for a moment.
const START_ATTEMPTS: u32 = 5;
const START_PAUSE: Duration = Duration::from_secs(1);

const OTHER_REPLY: &str = "the process that looks at it answered something else";

/// What a child process found.
#[derive(Debug)]
pub(crate) enum Looked {
    /// The segment is what it should be.
    Good,
    /// The segment is whole, and its pictures could not be compared for a reason that is not the segment's.
    NotCompared(String),
    Bad(BadSegment),
}

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

    /// Has a child decode a segment, and compare its pictures with the expected ones, whose source segments are the
    /// files at the paths given.
    ///
    /// # Errors
    /// If no child can be started.
    pub(crate) async fn check(
        &self,
        path: PathBuf,
        blob: BlobRef,
        range: FrameRange,
        pictures: Option<(&ExpectedPictures, Vec<PathBuf>)>,
    ) -> io::Result<Looked> {
        let request = CheckRequest::Check {
            path,
            blob,
            range,
            pictures: pictures.map(|(expected, paths)| expected.at(&paths)),
        };
        Ok(match self.ask(&request).await? {
            CheckReply::Good => Looked::Good,
            CheckReply::NotCompared(reason) => Looked::NotCompared(reason),
            CheckReply::Broken(reason) => Looked::Bad(BadSegment::Broken(reason)),
            CheckReply::Implausible(reason) => Looked::Bad(BadSegment::Implausible(reason)),
            CheckReply::Compared(_) => Looked::Bad(BadSegment::Broken(OTHER_REPLY.to_owned())),
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
        Ok(match self.ask(&CheckRequest::Compare { one, other }).await? {
            CheckReply::Compared(difference) => Ok(difference),
            CheckReply::Broken(reason) => Err(reason),
            CheckReply::Good | CheckReply::NotCompared(_) | CheckReply::Implausible(_) => {
                Err(OTHER_REPLY.to_owned())
            }
        })
    }

    /// Has a child answer one request. A segment on which a child ends or hangs is broken.
    async fn ask(&self, request: &CheckRequest) -> io::Result<CheckReply> {
        let mut child = self.child().await?;
        let reply = match tokio::time::timeout(TIME_LIMIT, exchange(&mut child, request)).await {
            Ok(Ok(reply)) => {
                self.idle().push(child);
                reply
            }
            Ok(Err(error)) => {
                // It has ended, or what it wrote is no reply.
                let _already_ended = child.start_kill();
                let ended = match child.wait().await {
                    Ok(status) => format!("the process that decodes it ended ({status})"),
                    Err(unknown) => format!("the process that decodes it is lost ({unknown})"),
                };
                CheckReply::Broken(format!("{ended}: {}", one_line(&error)))
            }
            // Dropping the child kills it.
            Err(_elapsed) => CheckReply::Broken(format!(
                "the process that decodes it did not answer within {} minutes",
                TIME_LIMIT.as_secs() / 60
            )),
        };
        Ok(reply)
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
    let mut prefix = [0; 4];
    output.read_exact(&mut prefix).await?;
    let mut body = vec![0; reply_len(prefix)?];
    output.read_exact(&mut body).await?;
    wire::decode(&body).map_err(PipeError::Wire)
}

/// The length of a reply, which is a few sentences at most.
fn reply_len(prefix: [u8; 4]) -> Result<usize, PipeError> {
    const MOST: usize = 1 << 20;
    match pipe::body_len(prefix)? {
        len if len <= MOST => Ok(len),
        _ => Err(PipeError::TooLong(u32::from_le_bytes(prefix))),
    }
}
