//! The jobs whose events somebody wants to see. Events of the others are not published: a farm of many workers has
//! many, and most jobs nobody watches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use latentfarm_common::ids::JobId;
use tokio::time::Instant;

use super::messages::WATCH_TIME;

/// The jobs that are watched, each until a time. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Watchers(Arc<Mutex<BTreeMap<JobId, Instant>>>);

impl Watchers {
    /// Takes a question for the events of a job.
    pub(super) fn watch(&self, job: JobId, now: Instant) {
        let mut watched = self.watched();
        watched.retain(|_, until| *until > now);
        watched.insert(job, now + WATCH_TIME);
    }

    pub(super) fn is_watched(&self, job: JobId, now: Instant) -> bool {
        self.watched().get(&job).is_some_and(|until| *until > now)
    }

    fn watched(&self) -> MutexGuard<'_, BTreeMap<JobId, Instant>> {
        // A map is whole whatever has panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::digest::Digest;
    use std::time::Duration;

    #[test]
    fn a_job_is_watched_for_a_time_after_the_last_question() {
        let job = |name: &[u8]| JobId::from_digest(&Digest::of(name));
        let (watchers, start) = (Watchers::default(), Instant::now());
        let second = Duration::from_secs(1);
        watchers.watch(job(b"one"), start);
        watchers.watch(job(b"two"), start + WATCH_TIME - second);
        assert!(watchers.is_watched(job(b"one"), start + WATCH_TIME - second));
        assert!(!watchers.is_watched(job(b"one"), start + WATCH_TIME));
        assert!(watchers.is_watched(job(b"two"), start + WATCH_TIME));
        assert!(!watchers.is_watched(job(b"three"), start));
        watchers.watch(job(b"three"), start + 3 * WATCH_TIME);
        assert_eq!(watchers.watched().len(), 1);
    }
}
