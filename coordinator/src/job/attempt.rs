//! Attempts at a chunk, and how many it is granted.

use std::fmt;

use latentfarm_common::wire::outcome::DoneRecord;

/// Failures that a chunk is granted before it is quarantined.
pub const MAX_FAILURES: u32 = 4;
/// Unfinished attempts that were not the chunk's fault (an unfit or lost worker, a lost queue) before it is
/// quarantined all the same, so that no chunk runs forever.
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
    /// Out of memory: counted against nothing, since each is a step up a finite ladder of plans and classes.
    pub out_of_memory: u32,
    /// Memory that was gone before anything was tried: counted against nothing, but waited for longer each time.
    pub no_room: u32,
}

impl Tries {
    pub fn total(self) -> u32 {
        self.failed + self.excused + self.out_of_memory + self.no_room
    }
}
