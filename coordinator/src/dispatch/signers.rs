//! Which keys sign the done records of which workers. A worker announces its key with each heartbeat, whose subject the
//! server's permissions tie to that key. The dispatcher learns the keys from there and asks whether a record is its
//! worker's; they are stored in the bucket of jobs, which only a coordinator may write, so that the next coordinator
//! recognises the records of workers that have left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::signature::{PublicKey, Signature};
use latentfarm_common::nats::subjects::{keys_of_workers, values, worker_keys_key};
use latentfarm_common::nats::topology::{JOBS_BUCKET, JOBS_STREAM};
use latentfarm_common::nats::{Connection, StreamError};
use tokio::time::Instant;

/// The number of keys of one worker that are kept; the oldest go. A worker gets a new one when its machine is invited
/// again, and with each run of a render that has a server of its own.
const KEYS_OF_A_WORKER: usize = 32;
/// The least time between two new keys of one worker.
const LEARN_INTERVAL: Duration = Duration::from_secs(5);

/// The keys of all workers that were ever on the farm.
#[derive(Debug, Default)]
pub(crate) struct Signers {
    /// The coordinator's own key, which signs the copies of records that it gives to other jobs.
    own: Option<PublicKey>,
    workers: BTreeMap<WorkerId, WorkerKeys>,
    /// The workers whose keys have changed since they were stored.
    unstored: BTreeSet<WorkerId>,
}

/// The keys of one worker, oldest first; none if it has announced that it has none.
#[derive(Debug, Default)]
struct WorkerKeys {
    keys: Vec<PublicKey>,
    learned_at: Option<Instant>,
}

/// Whether a record is that of the worker that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Authorship {
    /// The worker has signed it, or is one that signs nothing.
    Worker,
    /// The coordinator has signed it, as a copy of another job's.
    Coordinator,
    /// What is known of the worker does not show it. A heartbeat that is still to come may.
    Unknown(String),
    /// It is not the worker's.
    Other(String),
}

impl Signers {
    /// Reads the keys that coordinators of the farm have stored.
    pub(crate) async fn read(connection: &Connection) -> Result<Self, StreamError> {
        let filter = values(JOBS_BUCKET, &keys_of_workers());
        let mut signers = Self {
            own: connection.key().cloned(),
            ..Self::default()
        };
        let mut reader = DirectReader::new(&connection.client, JOBS_STREAM, &filter, 1);
        // The bucket keeps a few values of each key, of which the last is current.
        while let Some(message) = reader.next().await? {
            let name = message.subject.as_str().rsplit('.').next();
            if let Some(worker) = name.and_then(|name| name.parse().ok()) {
                let keys = WorkerKeys::parse(&message.payload);
                signers.workers.insert(worker, keys);
            }
        }
        Ok(signers)
    }

    /// Takes the key that a worker announces, or that it announces none.
    pub(super) fn learn(&mut self, worker: &WorkerId, key: Option<&PublicKey>, now: Instant) {
        let is_new = !self.workers.contains_key(worker);
        let known = self.workers.entry(worker.clone()).or_default();
        let is_soon = known.learned_at.is_some_and(|at| now - at < LEARN_INTERVAL);
        let new_key = key.filter(|key| !known.keys.contains(key) && !is_soon);
        if let Some(key) = new_key {
            known.learned_at = Some(now);
            known.keys.push(key.clone());
            let surplus = known.keys.len().saturating_sub(KEYS_OF_A_WORKER);
            known.keys.drain(..surplus);
        }
        if is_new || new_key.is_some() {
            self.unstored.insert(worker.clone());
        }
    }

    /// Stores what was learned since the last call. What cannot be stored is tried again with the next call.
    pub(super) async fn write(&mut self, connection: &Connection) {
        if self.unstored.is_empty() {
            return;
        }
        let written = async {
            let bucket = connection.context.get_key_value(JOBS_BUCKET).await;
            let bucket = bucket.map_err(async_nats::Error::from)?;
            while let Some(worker) = self.unstored.first().cloned() {
                if let Some(known) = self.workers.get(&worker) {
                    bucket.put(worker_keys_key(&worker), known.print().into()).await?;
                }
                self.unstored.remove(&worker);
            }
            Ok::<(), async_nats::Error>(())
        };
        if let Err(error) = written.await {
            tracing::debug!(
                error = one_line(error.as_ref()),
                "cannot store the keys of workers yet"
            );
        }
    }

    /// Says whether a record is that of the worker that it names.
    pub(crate) fn author(&self, worker: &WorkerId, signature: &Signature) -> Authorship {
        let known = self.workers.get(worker);
        match (signature, known) {
            (Signature::Invalid(reason), _) => Authorship::Other((*reason).to_owned()),
            (Signature::By(key), _) if self.own.as_ref() == Some(key) => Authorship::Coordinator,
            (Signature::By(key), Some(known)) if known.keys.contains(key) => Authorship::Worker,
            (Signature::By(key), _) => {
                let owners = self.owners(key);
                if owners.is_empty() {
                    let reason = format!("it is signed with the key {key}, which {worker} has not announced");
                    return Authorship::Unknown(reason);
                }
                let reason = format!("it is signed with the key {key} of {}", owners.join(", "));
                match known {
                    Some(known) if !known.keys.is_empty() => Authorship::Other(reason),
                    // A machine has one key for all its workers, and this one may be about to announce it.
                    Some(_) | None => Authorship::Unknown(reason),
                }
            }
            (Signature::Missing, Some(known)) if known.keys.is_empty() => Authorship::Worker,
            (Signature::Missing, Some(_)) => {
                Authorship::Other(format!("it is not signed, and {worker} signs its results"))
            }
            (Signature::Missing, None) => {
                Authorship::Unknown(format!("it is not signed, and nothing is known of {worker}"))
            }
        }
    }

    /// The names of the workers that have announced a key.
    fn owners(&self, key: &PublicKey) -> Vec<&str> {
        let owners = self.workers.iter().filter(|(_, known)| known.keys.contains(key));
        owners.map(|(worker, _)| worker.as_str()).collect()
    }
}

impl WorkerKeys {
    /// The stored form: a key on each line.
    fn print(&self) -> String {
        let lines: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    /// Reads the stored form. A line that is no key is left out.
    fn parse(stored: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stored);
        let keys = text.lines().filter_map(|line| line.parse().ok());
        Self {
            keys: keys.take(KEYS_OF_A_WORKER).collect(),
            learned_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] = [
        "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
        "UBAAQWTW6CG2G6ANGNKB5U2B7HRWHSGMZEZX3AQSAJOQDAUGJD46LD2E",
    ];

    fn worker(name: &str) -> WorkerId {
        name.parse().unwrap()
    }

    fn key(index: usize) -> PublicKey {
        KEYS[index].parse().unwrap()
    }

    #[test]
    fn a_record_is_its_workers_only_with_a_key_that_the_worker_announced() {
        let now = Instant::now();
        let mut signers = Signers {
            own: Some(key(1)),
            ..Signers::default()
        };
        let (w1, w2) = (worker("w1"), worker("w2"));
        let by = |index| Signature::By(key(index));
        assert!(matches!(signers.author(&w1, &by(0)), Authorship::Unknown(_)));
        assert!(matches!(
            signers.author(&w1, &Signature::Missing),
            Authorship::Unknown(_)
        ));
        signers.learn(&w1, Some(&key(0)), now);
        assert_eq!(signers.author(&w1, &by(0)), Authorship::Worker);
        // Its heartbeat may be on its way, unless it has announced another key.
        assert!(matches!(signers.author(&w2, &by(0)), Authorship::Unknown(_)));
        assert!(matches!(
            signers.author(&w1, &Signature::Missing),
            Authorship::Other(_)
        ));
        let broken = Signature::Invalid("its signature does not fit");
        assert!(matches!(signers.author(&w1, &broken), Authorship::Other(_)));
        assert_eq!(signers.author(&w1, &by(1)), Authorship::Coordinator);
        signers.own = None;
        signers.learn(&w2, Some(&key(1)), now);
        let forged = signers.author(&w1, &by(1));
        assert!(
            matches!(&forged, Authorship::Other(reason) if reason.ends_with("of w2")),
            "{forged:?}"
        );
    }

    #[test]
    fn a_worker_that_announces_no_key_signs_nothing_until_it_announces_one() {
        let now = Instant::now();
        let mut signers = Signers::default();
        let w1 = worker("w1");
        signers.learn(&w1, None, now);
        assert_eq!(signers.author(&w1, &Signature::Missing), Authorship::Worker);
        signers.learn(&w1, Some(&key(0)), now);
        signers.learn(&w1, None, now);
        assert!(matches!(
            signers.author(&w1, &Signature::Missing),
            Authorship::Other(_)
        ));
        assert_eq!(signers.author(&w1, &Signature::By(key(0))), Authorship::Worker);
        // A worker cannot make the coordinator store keys as fast as it sends heartbeats.
        signers.unstored.clear();
        signers.learn(&w1, Some(&key(1)), now);
        assert!(signers.unstored.is_empty());
        signers.learn(&w1, Some(&key(1)), now + LEARN_INTERVAL);
        assert_eq!(signers.author(&w1, &Signature::By(key(1))), Authorship::Worker);
        assert_eq!(
            signers.author(&w1, &Signature::By(key(0))),
            Authorship::Worker,
            "it may have signed with it before"
        );
        assert!(signers.unstored.contains(&w1));
    }

    #[test]
    fn keys_are_stored_as_lines() {
        let keys = WorkerKeys {
            keys: vec![key(0), key(1)],
            learned_at: None,
        };
        assert_eq!(WorkerKeys::parse(keys.print().as_bytes()).keys, keys.keys);
        assert!(WorkerKeys::parse(b"").keys.is_empty());
        let damaged = format!("\u{fffd}\n{}\nUXX", KEYS[1]);
        assert_eq!(WorkerKeys::parse(damaged.as_bytes()).keys, [key(1)]);
    }
}
