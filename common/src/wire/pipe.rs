//! Messages over the pipes between the supervisor and its children: a `u32` length, then the envelope.

use std::io::{self, Read, Write};

use super::{Message, WireError};

/// Longest message over a pipe. A window of 16 crops at 512 px is 12 MiB; an audio window 1 MiB.
pub const MAX_PIPE_BYTES: u32 = 256 << 20;

/// A pipe that broke, or carried something else than a message.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    #[error("the pipe broke")]
    Io(#[from] io::Error),
    #[error("a length of {0} bytes is no message: the pipe is out of step")]
    TooLong(u32),
    #[error("the pipe carried a broken message")]
    Wire(#[source] WireError),
}

/// The bytes of one message, length first.
pub fn frame<M: Message>(message: &M) -> Result<Vec<u8>, PipeError> {
    let body = super::encode(message).map_err(PipeError::Wire)?;
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    check_len(len)?;
    let mut bytes = Vec::with_capacity(body.len() + 4);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The number of bytes that follow a length prefix.
pub fn body_len(prefix: [u8; 4]) -> Result<usize, PipeError> {
    let len = u32::from_le_bytes(prefix);
    check_len(len)?;
    Ok(len as usize)
}

/// Writes one message and flushes.
pub fn write<M: Message>(mut to: impl Write, message: &M) -> Result<(), PipeError> {
    to.write_all(&frame(message)?)?;
    to.flush()?;
    Ok(())
}

/// Reads one message; `None` where the pipe ends between messages.
pub fn read<M: Message>(mut from: impl Read) -> Result<Option<M>, PipeError> {
    let mut prefix = [0_u8; 4];
    // One byte first: the end of the pipe here is the other side leaving in good order.
    if from.read(&mut prefix[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut prefix[1..])?;
    let mut body = vec![0_u8; body_len(prefix)?];
    from.read_exact(&mut body)?;
    super::decode(&body).map(Some).map_err(PipeError::Wire)
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
    use crate::wire::outcome::Control;

    #[test]
    fn messages_follow_each_other_to_the_end() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Control::Drain).unwrap();
        write(&mut bytes, &Control::Drain).unwrap();
        let mut pipe = &bytes[..];
        assert_eq!(read::<Control>(&mut pipe).unwrap(), Some(Control::Drain));
        assert_eq!(read::<Control>(&mut pipe).unwrap(), Some(Control::Drain));
        assert_eq!(read::<Control>(&mut pipe).unwrap(), None);
    }

    #[test]
    fn a_cut_message_and_a_wild_length_are_errors() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Control::Drain).unwrap();
        assert!(matches!(
            read::<Control>(&bytes[..bytes.len() - 1]),
            Err(PipeError::Io(_))
        ));
        assert!(matches!(
            read::<Control>(&[255_u8; 16][..]),
            Err(PipeError::TooLong(_))
        ));
    }
}
