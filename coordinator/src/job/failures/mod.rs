//! On which workers the attempts at a chunk failed, and when that shows that the chunk itself is at fault. A
//! single failure does not show it, as the worker may be at fault.

use std::collections::{BTreeMap, BTreeSet};

use latentfarm_common::ids::WorkerId;

/// A worker on which a chunk failed this often has shown what it can about the chunk.
const TRIES_ON_A_WORKER: u32 = 2;
/// A chunk is at fault when it has failed on this many workers, or on all that can run it if they are fewer.
const WORKERS: usize = 3;
/// The same for an input that workers report as unusable. No worker has to try it twice.
const WORKERS_FOR_BAD_INPUT: usize = 2;
/// The most failures of a chunk, of which [`TRIES_ON_A_WORKER`] of each worker count. It bounds the attempts on
/// a farm whose workers come and go, each with a name of its own.
const MOST_FAILURES: u32 = 32;

/// The failed attempts at one chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    by_worker: BTreeMap<WorkerId, WorkerFailures>,
    /// Why the last of them failed.
    last: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct WorkerFailures {
    count: u32,
    /// The worker's report that it cannot use the chunk's input, if there is one.
    bad_input: Option<String>,
}

impl Failures {
    /// Adds an attempt that failed on `worker` for `reason`, which may be that the worker cannot use the input.
    pub fn add(&mut self, worker: &WorkerId, reason: &str, is_bad_input: bool) {
        let failures = self.by_worker.entry(worker.clone()).or_default();
        failures.count += 1;
        if is_bad_input {
            failures.bad_input = Some(reason.to_owned());
        }
        reason.clone_into(&mut self.last);
    }

    pub fn is_empty(&self) -> bool {
        self.by_worker.is_empty()
    }

    /// Why the chunk is given up; `None` while another attempt may succeed. `able` are the live workers that can
    /// run the chunk. The failures of workers that `is_out` accepts do not count: these are at fault themselves.
    pub fn verdict(&self, able: &BTreeSet<WorkerId>, is_out: impl Fn(&WorkerId) -> bool) -> Option<String> {
        let counted = || self.by_worker.iter().filter(|(worker, _)| !is_out(worker));
        let refusals: BTreeMap<&WorkerId, &str> = counted()
            .filter_map(|(worker, failures)| Some((worker, failures.bad_input.as_deref()?)))
            .collect();
        if is_enough(
            |worker| refusals.contains_key(worker),
            refusals.len(),
            able,
            WORKERS_FOR_BAD_INPUT,
        ) {
            return refusals.into_values().next().map(str::to_owned);
        }
        let tried: Vec<&WorkerId> = counted()
            .filter(|(_, failures)| failures.count >= TRIES_ON_A_WORKER)
            .map(|(worker, _)| worker)
            .collect();
        let total: u32 = counted()
            .map(|(_, failures)| failures.count.min(TRIES_ON_A_WORKER))
            .sum();
        let has_tried = |worker: &WorkerId| tried.contains(&worker);
        if !is_enough(has_tried, tried.len(), able, WORKERS) && total < MOST_FAILURES {
            return None;
        }
        let attempts: u32 = self.by_worker.values().map(|failures| failures.count).sum();
        let names: Vec<&str> = counted().map(|(worker, _)| worker.as_str()).collect();
        Some(format!(
            "gave up after {attempts} failed attempts (on {}); the last one: {}",
            names.join(", "),
            self.last
        ))
    }

    /// Whether the chunk has failed on the worker as often as a worker has to try it.
    pub fn has_tried(&self, worker: &WorkerId) -> bool {
        let failures = self.by_worker.get(worker);
        failures.is_some_and(|failures| failures.count >= TRIES_ON_A_WORKER)
    }
}

/// Whether `count` workers, those that `is_one` accepts, are `enough`, or are all that are `able`.
fn is_enough(
    is_one: impl Fn(&WorkerId) -> bool,
    count: usize,
    able: &BTreeSet<WorkerId>,
    enough: usize,
) -> bool {
    count >= enough || !able.is_empty() && able.iter().all(is_one)
}

#[cfg(test)]
mod tests;
