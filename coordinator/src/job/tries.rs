//! The number of attempts at a chunk that ended without a result. On which workers they failed is in
//! [`Failures`](super::failures::Failures), by which a chunk is given up.

/// The attempts at one chunk that ended without a result, counted by the budget that each of them uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// The attempts that failed, by the fault of the chunk or of the worker.
    pub failed: u32,
    /// The attempts that ended by no fault of the chunk (an unfit or lost worker, a lost task).
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
