//! Identifiers. Each has one text form, used alike in subjects, object keys, file names and logs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Text that is not the text form of the identifier it should be.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct InvalidId {
    what: &'static str,
    text: String,
}

/// Names one job: the first 16 hexadecimal digits of the digest of all that its output is a function of, so
/// that the same request is the same job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(u64);

impl JobId {
    pub fn from_digest(digest: &Digest) -> Self {
        let mut head = [0_u8; 8];
        head.copy_from_slice(&digest.as_bytes()[..8]);
        Self(u64::from_be_bytes(head))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {self}")
    }
}

impl FromStr for JobId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            what: "job id",
            text: text.to_owned(),
        };
        if text.len() != 16 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| invalid())
    }
}

/// What is done to a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Work {
    /// Faces and landmarks for a range of source frames.
    Analyze,
    /// Lip-synced, encoded frames for a range of output frames.
    Render,
}

impl Work {
    fn letter(self) -> char {
        match self {
            Self::Analyze => 'a',
            Self::Render => 'r',
        }
    }
}

/// Names one chunk of one job. Text form: `<job>.<a|r><index, 5 digits or more>`; it is the tail of the task's
/// and of the done record's subject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId {
    pub job: JobId,
    pub work: Work,
    pub index: u32,
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}{:05}", self.job, self.work.letter(), self.index)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {self}")
    }
}

impl FromStr for ChunkId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            what: "chunk id",
            text: text.to_owned(),
        };
        let (job, tail) = text.split_once('.').ok_or_else(invalid)?;
        let work = match tail.chars().next() {
            Some('a') => Work::Analyze,
            Some('r') => Work::Render,
            _ => return Err(invalid()),
        };
        let digits = &tail[1..];
        if digits.len() < 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let id = Self {
            job: job.parse()?,
            work,
            index: digits.parse().map_err(|_| invalid())?,
        };
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(invalid())
        }
    }
}

/// Names one worker (a supervisor process): 1 to 40 of `a-z 0-9 -`, so that it is one subject token. `all` is
/// the name of all of them, so none may have it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(String);

impl WorkerId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {self}")
    }
}

impl FromStr for WorkerId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if text.is_empty() || text.len() > 40 || text == "all" || !text.bytes().all(allowed) {
            let what = "worker name (1 to 40 of a-z, 0-9 and -, not `all`)";
            return Err(InvalidId {
                what,
                text: text.to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunk_text_parses_to_the_same_chunk(job: u64, render: bool, index: u32) {
            let work = if render { Work::Render } else { Work::Analyze };
            let id = ChunkId { job: JobId(job), work, index };
            prop_assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "0.r00000",
            "0123456789abcdef.x00000",
            "0123456789abcdef.r1",
            "0123456789ABCDEF.r00001",
        ] {
            assert!(text.parse::<ChunkId>().is_err(), "{text}");
        }
        for text in ["", "UPPER", "a.b", "a b", "*"] {
            assert!(text.parse::<WorkerId>().is_err(), "{text}");
        }
    }
}
