//! Messages over the pipes between the supervisor and its child processes, the engine and the media process.
//! Each is a little-endian `u32` length, then the envelope.

use std::io::{self, Read, Write};

use super::{Message, WireError};

/// Longest message over a pipe, in bytes. A window of 16 crops at 512 px has 12 MiB, an audio window 1 MiB.
pub const MAX_PIPE_BYTES: u32 = 256 << 20;

/// Why a message could not be sent or received over a pipe.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The pipe cannot be read or written.
    #[error("the pipe broke")]
    Io(#[from] io::Error),
    /// The length before a message is above [`MAX_PIPE_BYTES`].
    #[error("a length of {0} bytes is no message: the pipe is out of step")]
    TooLong(u32),
    /// A message cannot be encoded or decoded.
    #[error("the pipe carried a broken message")]
    Wire(#[source] WireError),
}

/// Encodes one message with its length before it.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, PipeError> {
    let body = super::encode(message).map_err(PipeError::Wire)?;
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    check_len(len)?;
    let mut bytes = Vec::with_capacity(body.len() + 4);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Decodes a length prefix, which is the number of bytes that follow it.
pub fn body_len(prefix: [u8; 4]) -> Result<usize, PipeError> {
    let len = u32::from_le_bytes(prefix);
    check_len(len)?;
    Ok(len as usize)
}

/// Writes one message and flushes the pipe.
pub fn write<M: Message>(mut to: impl Write, message: &M) -> Result<(), PipeError> {
    to.write_all(&encode(message)?)?;
    to.flush()?;
    Ok(())
}

/// Makes an empty buffer for a body of `len` bytes. It has room for a window of crops; that of anything
/// longer grows as the bytes arrive, so that a wild length alone takes no memory.
pub fn body_buffer(len: usize) -> Vec<u8> {
    Vec::with_capacity(len.min(16 << 20))
}

/// Reads one message from the pipe. Returns `None` if the pipe ends between two messages.
pub fn read<M: Message>(mut from: impl Read) -> Result<Option<M>, PipeError> {
    let mut prefix = [0_u8; 4];
    // One byte is read first: if the pipe ends here, the other process has ended in good order.
    if from.read(&mut prefix[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut prefix[1..])?;
    let len = body_len(prefix)?;
    let mut body = body_buffer(len);
    from.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    super::decode(&body).map(Some).map_err(PipeError::Wire)
}

/// Reads the body of one message of at most `longest` bytes from the pipe.
///
/// # Errors
/// If the pipe ends before that, or if the message is longer.
#[cfg(feature = "farm")]
pub async fn read_body(
    mut from: impl tokio::io::AsyncRead + Unpin,
    longest: u32,
) -> Result<Vec<u8>, PipeError> {
    use tokio::io::AsyncReadExt as _;

    let mut prefix = [0_u8; 4];
    from.read_exact(&mut prefix).await?;
    let len = body_len(prefix)?;
    if len > longest as usize {
        return Err(PipeError::TooLong(u32::from_le_bytes(prefix)));
    }
    let mut body = body_buffer(len);
    from.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(body)
}

fn check_len(len: u32) -> Result<(), PipeError> {
    if len > MAX_PIPE_BYTES {
        Err(PipeError::TooLong(len))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::outcome::WorkerCommand;

    #[test]
    fn messages_follow_each_other_to_the_end() {
        let mut bytes = Vec::new();
        write(&mut bytes, &WorkerCommand::Drain).unwrap();
        write(&mut bytes, &WorkerCommand::Drain).unwrap();
        let mut pipe = &bytes[..];
        assert_eq!(
            read::<WorkerCommand>(&mut pipe).unwrap(),
            Some(WorkerCommand::Drain)
        );
        assert_eq!(
            read::<WorkerCommand>(&mut pipe).unwrap(),
            Some(WorkerCommand::Drain)
        );
        assert_eq!(read::<WorkerCommand>(&mut pipe).unwrap(), None);
    }

    #[test]
    fn a_cut_message_and_a_wild_length_are_errors() {
        let mut bytes = Vec::new();
        write(&mut bytes, &WorkerCommand::Drain).unwrap();
        assert!(matches!(
            read::<WorkerCommand>(&bytes[..bytes.len() - 1]),
            Err(PipeError::Io(_))
        ));
        assert!(matches!(
            read::<WorkerCommand>(&[255_u8; 16][..]),
            Err(PipeError::TooLong(_))
        ));
    }

    #[test]
    fn a_length_alone_takes_no_memory_and_a_long_message_arrives() {
        assert!(body_buffer(MAX_PIPE_BYTES as usize).capacity() < 64 << 20);
        let long = crate::wire::media::MediaReply::Crops {
            window: crate::time::FrameRange::new(0, 16),
            faces: vec![7; 20 << 20],
        };
        let bytes = encode(&long).unwrap();
        assert_eq!(read(&bytes[..]).unwrap(), Some(long));
    }
}
