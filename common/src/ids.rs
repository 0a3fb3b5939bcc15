//! Identifiers of jobs, chunks, attempts and workers. Each has one text form, which subjects, object keys,
//! file names and logs use alike.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::text::{InvalidText, serde_as_text};

/// Names one job by the first 8 bytes of the digest of everything that the job's output depends on,
/// so that the same request is the same job. Its text form has 16 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);
serde_as_text!(JobId);

impl JobId {
    /// Takes the first 8 bytes of a digest.
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
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let invalid = || InvalidText::new("job id", text);
        if text.len() != 16 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| invalid())
    }
}

/// The kind of work that is done for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WorkKind {
    /// Finds faces and landmarks in a range of source frames.
    Analyze,
    /// Makes lip-synced, encoded frames for a range of output frames.
    Render,
    /// Renders the first frames of a render chunk again on a machine of another numeric kind, to measure by how
    /// much the kinds differ. Its index is that of the render chunk.
    Border,
    /// Renders a render chunk again on another worker of the same numeric kind, to compare the frames. Its index is
    /// twice that of the render chunk, and one more for the rendering that decides between two that differ.
    SpotCheck,
}

impl WorkKind {
    fn letter(self) -> char {
        match self {
            Self::Analyze => 'a',
            Self::Render => 'r',
            Self::Border => 'b',
            Self::SpotCheck => 's',
        }
    }
}

/// Names a chunk within its job. The text form is `a`, `r`, `b` or `s` and the index in 5 digits or more; fewer
/// digits are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkName {
    /// The kind of work that the chunk needs.
    pub work: WorkKind,
    /// The chunk's place among those of its kind, from 0.
    pub index: u32,
}
serde_as_text!(ChunkName);

impl fmt::Display for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{:05}", self.work.letter(), self.index))
    }
}

impl FromStr for ChunkName {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let (work, digits) = match text.split_at_checked(1) {
            Some(("a", digits)) => (WorkKind::Analyze, digits),
            Some(("r", digits)) => (WorkKind::Render, digits),
            Some(("b", digits)) => (WorkKind::Border, digits),
            Some(("s", digits)) => (WorkKind::SpotCheck, digits),
            _ => return Err(InvalidText::new("chunk name", text)),
        };
        let index = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let index = index.and_then(|digits| digits.parse().ok());
        let index = index.ok_or_else(|| InvalidText::new("chunk name", text))?;
        Ok(Self { work, index })
    }
}

/// Names one chunk of one job. The text form is `<job>.<chunk name>`, with which the subjects of its task and
/// of its done record end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// The job that the chunk belongs to.
    pub job: JobId,
    /// The kind of work that the chunk needs.
    pub work: WorkKind,
    /// The chunk's place among those of its kind, from 0.
    pub index: u32,
}
serde_as_text!(ChunkId);

impl ChunkId {
    /// Returns the chunk's name within its job.
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
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let invalid = || InvalidText::new("chunk id", text);
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

/// One attempt at a chunk: each time that it is queued, this is greater, as a new coordinator has a higher
/// epoch. The text form is `<epoch>.<number>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    /// Fencing token of the coordinator that queued the chunk; 0 if it is not known.
    pub epoch: u64,
    /// Number of times that the chunk was queued before.
    pub number: u32,
}
serde_as_text!(Attempt);

impl Attempt {
    /// Returns the next attempt under the same coordinator.
    #[must_use]
    pub fn next(self) -> Self {
        Self {
            number: self.number.saturating_add(1),
            ..self
        }
    }

    /// Returns this attempt with the epoch of a newer coordinator. An older epoch changes nothing.
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
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let parts = text.split_once('.');
        let parsed = parts.and_then(|(epoch, number)| Some((epoch.parse().ok()?, number.parse().ok()?)));
        let (epoch, number) = parsed.ok_or_else(|| InvalidText::new("attempt", text))?;
        Ok(Self { epoch, number })
    }
}

/// Names one worker, which is a supervisor process. The name has 1 to 40 of `a-z`, `0-9` and `-`, so that it
/// is one subject token. `all` addresses every worker, so that no worker may have that name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(String);
serde_as_text!(WorkerId);

impl WorkerId {
    /// The most GPUs of a machine for which [`WorkerId::of_machine`] has names.
    pub const MACHINE_GPUS: usize = 16;

    /// Returns the worker's name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the worker on a GPU of the machine of this name, which has several devices; the GPUs that it
    /// uses are counted from 0.
    pub fn of_gpu(&self, index: usize) -> Result<Self, InvalidText> {
        format!("{self}-g{index}").parse()
    }

    /// Returns the name of the worker on the CPU of the machine of this name, which has several devices.
    pub fn of_cpu(&self) -> Result<Self, InvalidText> {
        format!("{self}-cpu").parse()
    }

    /// Returns the names that the workers of the machine of this name may have. Those that would be too long are left
    /// out.
    pub fn of_machine(&self) -> Vec<Self> {
        let on_gpus = (0..Self::MACHINE_GPUS).map(|index| self.of_gpu(index));
        let on_devices = on_gpus.chain([self.of_cpu()]).flatten();
        std::iter::once(self.clone()).chain(on_devices).collect()
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
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if text.is_empty() || text.len() > 40 || text == "all" || !text.bytes().all(allowed) {
            let what = "worker name (1 to 40 of a-z, 0-9 and -, not `all`)";
            return Err(InvalidText::new(what, text));
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
            let work = if render { WorkKind::Render } else { WorkKind::Analyze };
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
    fn a_machine_has_a_worker_for_each_device_or_one_of_its_own_name() {
        let machine: WorkerId = "gpu1".parse().unwrap();
        let names = machine.of_machine();
        assert_eq!(names.len(), 18);
        for name in ["gpu1", "gpu1-g0", "gpu1-g15", "gpu1-cpu"] {
            assert!(names.contains(&name.parse().unwrap()), "{name}");
        }
        let long: WorkerId = "x".repeat(38).parse().unwrap();
        assert_eq!(long.of_machine(), [long]);
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
