//! The pipes between the media child and the supervisor.

use std::io::{Read, Write};

use latentfarm_common::wire::Message;
use latentfarm_common::wire::media::MediaRequest;
use latentfarm_common::wire::pipe::{self, PipeError};

/// Requests come in on `input`, replies go out on `output`.
pub(super) struct Pipes<R, W> {
    pub(super) input: R,
    pub(super) output: W,
}

impl<R: Read, W: Write> Pipes<R, W> {
    /// Waits for the next request; `None` if the supervisor has closed the pipe.
    pub(super) fn receive(&mut self) -> Result<Option<MediaRequest>, PipeError> {
        pipe::read(&mut self.input)
    }

    pub(super) fn send<M: Message>(&mut self, message: &M) -> Result<(), PipeError> {
        pipe::write(&mut self.output, message)
    }
}
