//! The media child: decodes, finds faces, crops, pastes back, encodes. A file that crashes a decoder ends here.
//!
//! It reads [`MediaRequest`]s from standard input and answers on standard output; its log goes to standard
//! error. It ends when its input ends.

mod analyze;
mod error;
mod pipes;
mod render;
mod timed;
mod window;

use std::io::{Read, Write};

use latentfarm_common::error::one_line;
use latentfarm_common::media::MediaError;
use latentfarm_common::wire::media::{MediaFailure, MediaReply, MediaRequest};
use latentfarm_common::wire::pipe::PipeError;

use crate::face::FaceAnalyzer;
use error::JobError;
use pipes::Pipes;

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
