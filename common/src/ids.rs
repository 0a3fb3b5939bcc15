//! Identifiers. Each has one text form, used alike in subjects, object keys, file names and logs.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::text::serde_as_text;

/// Text that is not the text form of the identifier it should be.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct InvalidId {
    what: &'static str,
    text: String,
}

impl InvalidId {
    fn new(what: &'static str, text: &str) -> Self {
        let text = text.to_owned();
        Self { what, text }
    }
}

/// Names one job: the first 16 hexadecimal digits of the digest of all that its output is a function of, so
/// that the same request is the same job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);
serde_as_text!(JobId);

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
        let invalid = || InvalidId::new("job id", text);
        if text.len() != 16 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| invalid())
    }
}

/// What is done to a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Names a chunk within its job. Text form: `<a|r><index, 5 digits or more>`; fewer digits are read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkName {
    pub work: Work,
    pub index: u32,
}
serde_as_text!(ChunkName);

impl fmt::Display for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{:05}", self.work.letter(), self.index))
    }
}

impl FromStr for ChunkName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (work, digits) = match text.split_at_checked(1) {
            Some(("a", digits)) => (Work::Analyze, digits),
            Some(("r", digits)) => (Work::Render, digits),
            _ => return Err(InvalidId::new("chunk name", text)),
        };
        let index = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let index = index.and_then(|digits| digits.parse().ok());
        let index = index.ok_or_else(|| InvalidId::new("chunk name", text))?;
        Ok(Self { work, index })
    }
}

/// Names one chunk of one job. Text form: `<job>.<chunk name>`; it is the tail of the task's and of the done
/// record's subject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    pub job: JobId,
    pub work: Work,
    pub index: u32,
}
serde_as_text!(ChunkId);

impl ChunkId {
    /// The chunk's name within its job.
    pub fn name(self) -> ChunkName {
        let Self { work, index, .. } = self;
        ChunkName { work, index }
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.job, self.name())
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
        let invalid = || InvalidId::new("chunk id", text);
        let (job, name) = text.split_once('.').ok_or_else(invalid)?;
        let (job, ChunkName { work, index }) = (job.parse()?, name.parse()?);
        let id = Self { job, work, index };
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(invalid())
        }
    }
}

/// One enqueue of a chunk. A later one is greater, as a new coordinator has a higher epoch. Text form:
/// `<epoch>.<number>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    /// Fencing token of the coordinator that enqueued it; 0 if it is not known.
    pub epoch: u64,
    /// Counts the chunk's enqueues from 0.
    pub number: u32,
}
serde_as_text!(Attempt);

impl Attempt {
    #[must_use]
    pub fn next(self) -> Self {
        Self {
            number: self.number.saturating_add(1),
            ..self
        }
    }

    /// The same number under a newer coordinator; unchanged under an older one.
    #[must_use]
    pub fn under(self, epoch: u64) -> Self {
        Self {
            epoch: self.epoch.max(epoch),
            ..self
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

impl FromStr for Attempt {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts = text.split_once('.');
        let parsed = parts.and_then(|(epoch, number)| Some((epoch.parse().ok()?, number.parse().ok()?)));
        let (epoch, number) = parsed.ok_or_else(|| InvalidId::new("attempt", text))?;
        Ok(Self { epoch, number })
    }
}

/// Names one worker (a supervisor process): 1 to 40 of `a-z 0-9 -`, so that it is one subject token. `all` is
/// the name of all of them, so none may have it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(String);
serde_as_text!(WorkerId);

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
            return Err(InvalidId::new(what, text));
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
        fn every_identifier_is_read_from_its_own_text(
            job: u64, render: bool, index: u32, epoch: u64, number: u32, worker in "[a-z0-9-]{1,40}"
        ) {
            let work = if render { Work::Render } else { Work::Analyze };
            let id = ChunkId { job: JobId(job), work, index };
            prop_assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
            prop_assert_eq!(id.name().to_string().parse::<ChunkName>().unwrap(), id.name());
            prop_assert_eq!(id.job.to_string().parse::<JobId>().unwrap(), id.job);
            let attempt = Attempt { epoch, number };
            prop_assert_eq!(attempt.to_string().parse::<Attempt>().unwrap(), attempt);
            prop_assume!(worker != "all");
            prop_assert_eq!(worker.parse::<WorkerId>().unwrap().to_string(), worker);
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
        for text in ["", "r", "3", "x3", "r+3", "r-1", "r3.5", "r4294967296", "é3"] {
            assert!(text.parse::<ChunkName>().is_err(), "{text}");
        }
        for text in ["", "1", "1.", ".1", "1.2.3", "a.0"] {
            assert!(text.parse::<Attempt>().is_err(), "{text}");
        }
    }
}
