//! The attempts at a chunk that ended without a result, and how many of them it may have.

/// A chunk is quarantined when this many attempts have failed by its own fault.
pub const MAX_FAILURES: u32 = 4;
/// A chunk is quarantined when this many attempts have ended by no fault of its own (an unfit or lost worker,
/// a lost task), so that no chunk runs forever.
pub const MAX_EXCUSED: u32 = 8;

/// The attempts at one chunk that ended without a result, counted by the budget that each of them uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// The attempts that failed by the chunk's own fault; [`MAX_FAILURES`] is their limit.
    pub failed: u32,
    /// The attempts that ended by no fault of the chunk; [`MAX_EXCUSED`] is their limit.
    pub excused: u32,
    /// The attempts that ran out of memory. They have no limit, because each raises the chunk's memory plan
    /// or class.
    pub out_of_memory: u32,
    /// The attempts that found too little free memory to begin. They have no limit, but each waits longer.
    pub insufficient_memory: u32,
}

impl Tries {
    /// The number of all attempts that ended without a result.
    pub fn total(self) -> u32 {
        self.failed + self.excused + self.out_of_memory + self.insufficient_memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unfinished_attempt_counts_in_the_total() {
        let tries = Tries {
            failed: 1,
            excused: 2,
            out_of_memory: 3,
            insufficient_memory: 4,
        };
        assert_eq!(tries.total(), 10);
    }
}
