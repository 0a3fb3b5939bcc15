//! The media child: decodes, finds faces, crops, pastes back, encodes. A file that crashes a decoder ends here.
//!
//! It reads [`MediaRequest`]s from standard input and answers on standard output; its log goes to standard
//! error. It ends when its input ends.

mod analyze;
mod render;
mod window;

use std::io::{Read, Write};
use std::time::Instant;

use latentfarm_common::error::one_line;
use latentfarm_common::media::MediaError;
use latentfarm_common::wire::Message;
use latentfarm_common::wire::media::{MediaFailure, MediaReply, MediaRequest};
use latentfarm_common::wire::pipe::{self, PipeError};

use crate::face::{FaceAnalyzer, FaceError};

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error("cannot find faces")]
    Face(#[from] FaceError),
    #[error("the request does not fit together: {0}")]
    Inconsistent(String),
    /// The supervisor is gone or out of step: nothing can be answered.
    #[error("the pipe to the supervisor failed")]
    Pipe(#[from] PipeError),
}

/// The two ends of the conversation.
struct Pipes<R, W> {
    input: R,
    output: W,
}

impl<R: Read, W: Write> Pipes<R, W> {
    fn receive(&mut self) -> Result<Option<MediaRequest>, PipeError> {
        pipe::read(&mut self.input)
    }

    fn send<M: Message>(&mut self, message: &M) -> Result<(), PipeError> {
        pipe::write(&mut self.output, message)
    }
}

/// Serves requests until the input ends.
pub fn serve(input: impl Read, output: impl Write) -> Result<(), PipeError> {
    latentfarm_common::media::init();
    let mut pipes = Pipes { input, output };
    let mut analyzer: Option<FaceAnalyzer> = None;
    while let Some(request) = pipes.receive()? {
        let outcome = match request {
            MediaRequest::Analyze {
                source,
                range,
                segments,
            } => analyze::run(&mut analyzer, &source, range, segments, &mut pipes),
            MediaRequest::Render(request) => render::run(&request, &mut pipes),
            MediaRequest::Synced { window, .. } => Err(JobError::Inconsistent(format!(
                "rendered crops for {window} without a render"
            ))),
        };
        let reply = match outcome {
            Ok(reply) => reply,
            Err(JobError::Pipe(error)) => return Err(error),
            Err(error) => MediaReply::Failed(failure(&error)),
        };
        pipes.send(&reply)?;
    }
    Ok(())
}

fn failure(error: &JobError) -> MediaFailure {
    let message = one_line(error);
    match error {
        JobError::Media(MediaError::BadInput { .. }) => MediaFailure::BadInput { message },
        _ => MediaFailure::Other { message },
    }
}

/// Does `work` and adds its wall time to `total_us`.
fn timed<T>(total_us: &mut u64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *total_us += u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    result
}
