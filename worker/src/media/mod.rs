//! The media child: a process that decodes, finds faces, crops, pastes back and encodes for the supervisor,
//! so that a file which crashes a decoder ends only this process.
//!
//! It reads [`MediaRequest`]s from standard input and writes [`MediaReply`]s to standard output; its log goes
//! to standard error. It ends when its input ends.

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

use error::RequestError;
use latentfarm_face::FaceAnalyzer;
use pipes::Pipes;

/// Serves requests until the input ends.
///
/// # Errors
/// If a message cannot be read or written. Any other error is a reply, [`MediaReply::Failed`].
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
            } => loaded(&mut analyzer)
                .and_then(|analyzer| analyze::run(analyzer, &source, range, segments, &mut pipes)),
            MediaRequest::Render(request) => {
                loaded(&mut analyzer).and_then(|analyzer| render::run(analyzer, &request, &mut pipes))
            }
            MediaRequest::Synced { window, .. } => Err(RequestError::Inconsistent(format!(
                "rendered crops for {window} came without a render request"
            ))),
        };
        let reply = match outcome {
            Ok(reply) => reply,
            Err(RequestError::Pipe(error)) => return Err(error),
            Err(error) => MediaReply::Failed(failure(&error)),
        };
        pipes.send(&reply)?;
    }
    Ok(())
}

/// Returns the face networks, which the first request that needs them loads.
fn loaded(analyzer: &mut Option<FaceAnalyzer>) -> Result<&FaceAnalyzer, RequestError> {
    Ok(match analyzer {
        Some(analyzer) => analyzer,
        None => analyzer.insert(FaceAnalyzer::new()?),
    })
}

fn failure(error: &RequestError) -> MediaFailure {
    let message = one_line(error);
    match error {
        RequestError::Media(MediaError::BadInput { .. }) => MediaFailure::BadInput { message },
        _ => MediaFailure::Other { message },
    }
}
