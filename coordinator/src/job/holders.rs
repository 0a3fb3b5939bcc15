//! The workers that have reported that they began an attempt at a chunk. The chunk's
//! [record](super::record::ChunkRecord) keeps them, and a result counts only if its worker is among them. There may be
//! several for one attempt, as the queue delivers a task again if its worker is slow.

use std::collections::BTreeMap;

use latentfarm_common::ids::{Attempt, WorkerId};

/// The number of attempts of one worker that are kept, so that a worker that reports nonsense displaces nobody else.
const ATTEMPTS: usize = 8;

/// The attempts at one chunk by the workers that reported to have begun them.
#[derive(Clone, Debug, Default)]
pub struct Holders(BTreeMap<WorkerId, Vec<Attempt>>);

impl Holders {
    /// Records that a worker reported to have begun an attempt.
    pub fn add(&mut self, worker: &WorkerId, attempt: Attempt) {
        let begun = self.0.entry(worker.clone()).or_default();
        if begun.contains(&attempt) {
            return;
        }
        if begun.len() == ATTEMPTS {
            begun.remove(0);
        }
        begun.push(attempt);
    }

    /// Whether the worker is known to have begun the attempt.
    pub fn has(&self, worker: &WorkerId, attempt: Attempt) -> bool {
        self.0.get(worker).is_some_and(|begun| begun.contains(&attempt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_displaces_only_its_own_attempts() {
        let worker = |name: &str| -> WorkerId { name.parse().unwrap() };
        let attempt = |number| Attempt { epoch: 1, number };
        let mut holders = Holders::default();
        holders.add(&worker("w1"), attempt(0));
        for number in 0..1000 {
            holders.add(&worker("liar"), attempt(number));
        }
        assert!(holders.has(&worker("w1"), attempt(0)));
        assert!(!holders.has(&worker("w1"), attempt(1)));
        assert!(!holders.has(&worker("w2"), attempt(0)));
        assert!(holders.has(&worker("liar"), attempt(999)));
        assert!(!holders.has(&worker("liar"), attempt(0)));
        assert_eq!(holders.0[&worker("liar")].len(), ATTEMPTS);
    }
}
