//! The coordinator's lease makes sure that there is one coordinator at a time, and numbers them by an epoch
//! that only grows.
//!
//! The dispatcher acquires it before it touches a job, and stops when it is lost to another coordinator. A lease that
//! lapses because its holder was suspended, or was cut off from the server, is taken up again with the same epoch if
//! nobody else has held it meanwhile; until then the holder waits.
//!
//! The lease is a key with a time to live, renewed by compare-and-set. Renewal is a raw publish because the
//! library's `update` drops the time to live, and so does its `create` over the marker of an expired value.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connect::Connection;
use super::direct::last_of;
use super::topology::{LEASE_BUCKET, is_not_found};
use crate::clock;

const KEY: &str = "coordinator";

/// Time to live of the lease: whole seconds, at least 1 s. The holder renews the lease after each third of
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTtl(Duration);

impl LeaseTtl {
    /// Makes a time to live of `seconds`; 0 is raised to 1.
    pub fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds.max(1)))
    }

    /// Returns the time to live in seconds.
    pub fn seconds(self) -> u64 {
        self.0.as_secs()
    }

    fn renew_every(self) -> Duration {
        self.0 / 3
    }

    /// A holder that could not renew for this long waits. A third of the time is left for what is in flight.
    fn valid_for(self) -> Duration {
        self.0 * 2 / 3
    }
}

impl Default for LeaseTtl {
    fn default() -> Self {
        Self::from_secs(15)
    }
}

/// What to do about a lease that another coordinator holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contention {
    /// The lease is left alone, and acquiring fails with [`LeaseError::Held`].
    Refuse,
    /// The lease is taken from its holder. This is right only if something else proves that the holder is
    /// dead, such as the lock on an embedded server's directory.
    Seize,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another coordinator holds the lease.
    #[error(
        "another coordinator is at work on this farm: {holder}; give it jobs with `latentfarm submit` if it is a \
         `latentfarm serve`, else wait until its job has ended, or interrupt it; if it was killed, give the same command \
         again in {} s", .time.seconds()
    )]
    Held {
        /// Time to live of a lease, after which that of a dead holder is free.
        time: LeaseTtl,
        /// Name of the holder, as it was given to [`Lease::acquire`].
        holder: String,
        /// The last renewal; a holder that is alive makes a new one within a third of the time to live.
        revision: u64,
    },
    /// The stored lease cannot be read.
    #[error("cannot read the coordinator's lease")]
    Read(#[source] async_nats::Error),
    /// The lease cannot be stored.
    #[error("cannot write the coordinator's lease")]
    Write(#[source] PublishError),
}

/// The last renewal of a lease.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    revision: u64,
    /// The time since boot just before the renewal: the server counts on while this machine is suspended.
    at: Duration,
    lost: bool,
}

/// The lease belongs to another coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another coordinator has taken the lease")]
pub struct Lost;

/// A lease that is renewed by a task of its own until it is lost or released. If it is dropped, it expires.
#[derive(Debug)]
pub struct Lease {
    epoch: u64,
    time: LeaseTtl,
    context: jetstream::Context,
    renewals: watch::Receiver<Renewal>,
    renewer: JoinSet<()>,
}

impl Lease {
    /// Takes the lease under the name `holder`, which a refused coordinator shows in its error.
    pub async fn acquire(
        connection: &Connection,
        holder: &str,
        time: LeaseTtl,
        contention: Contention,
    ) -> Result<Self, LeaseError> {
        let context = connection.context.clone();
        let stream = format!("KV_{LEASE_BUCKET}");
        let found = last_of(&context, &stream, &subject())
            .await
            .map_err(LeaseError::Read)?;
        let expected = match found {
            None => 0,
            Some(message) if is_marker(&message.headers) => message.sequence,
            Some(message) => {
                let other = String::from_utf8_lossy(&message.payload).into_owned();
                if contention == Contention::Refuse {
                    return Err(LeaseError::Held {
                        time,
                        holder: other,
                        revision: message.sequence,
                    });
                }
                tracing::warn!(holder = other, "taking over the lease of a dead coordinator");
                message.sequence
            }
        };
        // The suffix distinguishes this holder from another one of the same name.
        let holder = format!(
            "{holder} #{:08x}",
            RandomState::new().build_hasher().finish() >> 32
        );
        let at = clock::since_boot();
        let epoch = match write(&context, &holder, time, expected).await {
            Ok(revision) => revision,
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                return Err(LeaseError::Held {
                    time,
                    holder: "it took the lease at this very moment".to_owned(),
                    revision: expected,
                });
            }
            Err(error) => return Err(LeaseError::Write(error)),
        };
        let first = Renewal {
            revision: epoch,
            at,
            lost: false,
        };
        let (sender, renewals) = watch::channel(first);
        let mut renewer = JoinSet::new();
        renewer.spawn(renew(connection.clone(), holder, time, sender));
        tracing::debug!(epoch, "took the coordinator's lease");
        Ok(Self {
            epoch,
            time,
            context,
            renewals,
            renewer,
        })
    }

    /// Returns the fencing token, which is larger than that of every earlier holder.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this process may still act as the coordinator. It may not if it missed its renewals, because it was
    /// suspended or cut off from the server.
    pub fn is_held(&self) -> bool {
        is_current(*self.renewals.borrow(), self.time)
    }

    /// Waits until this process may act as the coordinator, which is at once if it is not suspended or cut off. Safe
    /// to drop and call again.
    ///
    /// # Errors
    /// If another coordinator has the lease, or had it.
    pub async fn held(&self) -> Result<(), Lost> {
        let mut renewals = self.renewals.clone();
        let decided = renewals.wait_for(|renewal| renewal.lost || is_current(*renewal, self.time));
        // An error means that the renewing task has ended, and the lease with it.
        match decided.await {
            Ok(renewal) if !renewal.lost => Ok(()),
            _ => Err(Lost),
        }
    }

    /// Waits until the lease is lost to another coordinator. Safe to drop and call again.
    pub async fn lost(&self) {
        let mut renewals = self.renewals.clone();
        // An error means that the renewing task has ended, and the lease with it.
        let _ = renewals.wait_for(|renewal| renewal.lost).await;
    }

    /// Gives the lease back, so that the next coordinator need not wait until it expires.
    pub async fn release(mut self) {
        self.renewer.abort_all();
        let revision = self.renewals.borrow().revision;
        let message = PublishMessage::build()
            .header("KV-Operation", "PURGE")
            .header(async_nats::header::NATS_ROLLUP, "sub")
            .expected_last_subject_sequence(revision);
        let published = async { self.context.send_publish(subject(), message).await?.await };
        if let Err(error) = published.await {
            tracing::warn!(%error, "cannot give the coordinator's lease back, it will expire");
        }
    }
}

/// Returns the name of the coordinator that has the lease; `None` if it is free.
pub async fn holder(connection: &Connection) -> Result<Option<String>, LeaseError> {
    let stream = format!("KV_{LEASE_BUCKET}");
    match connection.context.get_stream(&stream).await {
        Ok(_) => {}
        // Nobody has ever coordinated this farm.
        Err(error) if is_not_found(error.kind()) => return Ok(None),
        Err(error) => return Err(LeaseError::Read(error.into())),
    }
    let found = last_of(&connection.context, &stream, &subject()).await;
    let found = found.map_err(LeaseError::Read)?;
    let held = found.filter(|message| !is_marker(&message.headers));
    Ok(held.map(|message| String::from_utf8_lossy(&message.payload).into_owned()))
}

/// Whether a lease of this last renewal has neither been lost nor lapsed.
fn is_current(renewal: Renewal, time: LeaseTtl) -> bool {
    !renewal.lost && clock::since_boot().saturating_sub(renewal.at) < time.valid_for()
}

fn subject() -> String {
    format!("$KV.{LEASE_BUCKET}.{KEY}")
}

/// Whether these are the headers of the marker that a deleted, purged or expired value leaves.
pub(super) fn is_marker(headers: &HeaderMap) -> bool {
    headers.get("KV-Operation").is_some() || headers.get("Nats-Marker-Reason").is_some()
}

async fn write(
    context: &jetstream::Context,
    holder: &str,
    time: LeaseTtl,
    expected: u64,
) -> Result<u64, PublishError> {
    let message = PublishMessage::build()
        .payload(holder.to_owned().into())
        .ttl(time.0)
        .expected_last_subject_sequence(expected);
    Ok(context.send_publish(subject(), message).await?.await?.sequence)
}

/// Renews the lease after each third of its time to live, until another coordinator has it. A write that is not
/// answered in time is tried again: the server may be away, or this process was suspended.
async fn renew(connection: Connection, holder: String, time: LeaseTtl, renewals: watch::Sender<Renewal>) {
    let mut ticks = tokio::time::interval_at(Instant::now() + time.renew_every(), time.renew_every());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // An outage is reported by the connection, and a server that does not answer is one line here.
    let mut is_reported = false;
    loop {
        ticks.tick().await;
        let last = *renewals.borrow();
        let is_lapsed = !is_current(last, time);
        let at = clock::since_boot();
        let writing = write_again(&connection.context, &holder, time, last.revision);
        let revision = match tokio::time::timeout(time.valid_for(), writing).await {
            Ok(Ok(Some(revision))) => revision,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                if connection.is_up() && !is_reported {
                    tracing::warn!(%error, "cannot renew the coordinator's lease yet");
                    is_reported = true;
                }
                continue;
            }
            Err(_elapsed) => continue,
        };
        is_reported = false;
        if is_lapsed {
            tracing::warn!("the coordinator's lease had lapsed, and nobody took it: it is taken up again");
        }
        renewals.send_replace(Renewal {
            revision,
            at,
            lost: false,
        });
    }
    tracing::error!("lost the coordinator's lease to another coordinator");
    renewals.send_modify(|renewal| renewal.lost = true);
}

/// Writes the lease after its last known `revision` and returns the new one; `None` if somebody else has or had it.
async fn write_again(
    context: &jetstream::Context,
    holder: &str,
    time: LeaseTtl,
    revision: u64,
) -> Result<Option<u64>, async_nats::Error> {
    let error = match write(context, holder, time, revision).await {
        Ok(written) => return Ok(Some(written)),
        Err(error) => error,
    };
    if error.kind() != PublishErrorKind::WrongLastSequence {
        return Err(error.into());
    }
    match standing(context, holder, revision).await? {
        Standing::Ours { revision } => Ok(Some(revision)),
        Standing::Free { expected } => Ok(Some(write(context, holder, time, expected).await?)),
        Standing::Taken => Ok(None),
    }
}

/// What the server has in place of the last known revision of a lease.
enum Standing {
    /// A later write of this holder, the answer to which was lost.
    Ours { revision: u64 },
    /// Nothing but the marker of its expiry, or not even that any more. The next write must expect this revision.
    Free { expected: u64 },
    /// The lease of another holder, or a sign that there was one.
    Taken,
}

/// The most messages that follow the last known write of a holder without another holder: its own last write, if the
/// answer to it was lost, and the marker of that one's expiry. Another holder waits for that marker, writes at least
/// once, and leaves a marker too.
const OWN_MESSAGES: u64 = 2;

async fn standing(
    context: &jetstream::Context,
    holder: &str,
    revision: u64,
) -> Result<Standing, async_nats::Error> {
    let name = format!("KV_{LEASE_BUCKET}");
    let own = revision..=revision + OWN_MESSAGES;
    Ok(match last_of(context, &name, &subject()).await? {
        Some(message) if !is_marker(&message.headers) => {
            if &message.payload[..] == holder.as_bytes() {
                Standing::Ours {
                    revision: message.sequence,
                }
            } else {
                Standing::Taken
            }
        }
        Some(marker) if is_expiry(&marker.headers) && own.contains(&marker.sequence) => Standing::Free {
            expected: marker.sequence,
        },
        Some(_) => Standing::Taken,
        // The marker expires too. The stream holds nothing but this key, so that its count shows who was there.
        None => {
            let stream = context.get_stream(&name).await?;
            if own.contains(&stream.cached_info().state.last_sequence) {
                Standing::Free { expected: 0 }
            } else {
                Standing::Taken
            }
        }
    })
}

/// Whether these are the headers of the marker that an expired value leaves.
fn is_expiry(headers: &HeaderMap) -> bool {
    headers
        .get("Nats-Marker-Reason")
        .is_some_and(|reason| reason.as_str() == "MaxAge")
}
