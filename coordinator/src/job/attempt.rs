//! Attempts at a chunk, how many it is granted, and how one that failed reads.

use std::fmt;

use latentfarm_common::wire::outcome::{DoneRecord, Failure};

/// Failures that a chunk is granted before it is quarantined.
pub const MAX_FAILURES: u32 = 4;
/// Unfinished attempts that were not the chunk's fault (out of memory, an unfit or lost worker, a lost queue)
/// before it is quarantined all the same, so that no chunk runs forever.
pub const MAX_EXCUSED: u32 = 8;

/// One enqueue of a chunk. Later ones are greater: a new coordinator has a higher epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    pub epoch: u64,
    pub number: u32,
}

impl Attempt {
    pub fn of(record: &DoneRecord) -> Self {
        Self {
            epoch: record.epoch,
            number: record.attempt,
        }
    }

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

/// Unfinished attempts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// Counted against [`MAX_FAILURES`].
    pub failed: u32,
    /// Counted against [`MAX_EXCUSED`].
    pub excused: u32,
}

impl Tries {
    pub fn total(self) -> u32 {
        self.failed + self.excused
    }
}

/// A failure in one sentence.
pub fn describe(failure: &Failure) -> String {
    match failure {
        Failure::OutOfMemory {
            device,
            stage,
            needed_at_least_mib,
            free_before_mib,
        } => {
            let needed =
                needed_at_least_mib.map_or_else(String::new, |mib| format!(", needs at least {mib} MiB"));
            format!("out of memory on {device} during {stage} ({free_before_mib} MiB were free{needed})")
        }
        Failure::BadInput { message } => format!("bad input: {message}"),
        Failure::WorkerUnfit { message } => format!("the worker is unfit: {message}"),
        Failure::Transient { message } => message.clone(),
        Failure::EngineLost { message } => format!("a child process ended: {message}"),
    }
}
