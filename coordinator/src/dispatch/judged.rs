//! What was decided about the records of a job that has left the dispatcher. The job may come back, as an operator retries it,
//! and the reports of its workers are not repeated.

use std::collections::BTreeSet;

/// The records of a job that had been judged when it left the dispatcher. Those that were rejected are no longer in the log.
#[derive(Clone, Debug, Default)]
pub(super) struct JudgedRecords {
    /// The greatest sequence number of a record that counted.
    last: u64,
    /// The records before it that still waited for the report of their worker.
    open: BTreeSet<u64>,
}

impl JudgedRecords {
    /// Adds what was decided while the job was on the dispatcher: the records that `counted`, and those that are `open`.
    pub(super) fn add(&mut self, counted: impl Iterator<Item = u64>, open: impl Iterator<Item = u64>) {
        self.last = counted.fold(self.last, u64::max);
        self.open.extend(open);
    }

    /// Whether a record of the log had been judged.
    pub(super) fn contains(&self, sequence: u64) -> bool {
        sequence <= self.last && !self.open.contains(&sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_counted_are_known_and_those_that_waited_or_came_later_are_not() {
        let mut judged = JudgedRecords::default();
        assert!(!judged.contains(1));
        judged.add([3, 7].into_iter(), [5, 9].into_iter());
        assert_eq!(
            [3, 5, 7, 8, 9].map(|sequence| judged.contains(sequence)),
            [true, false, true, false, false]
        );
        judged.add([8].into_iter(), std::iter::empty());
        assert_eq!(
            [5, 8, 9].map(|sequence| judged.contains(sequence)),
            [false, true, false]
        );
    }
}
