//! The coordinator's lease makes sure that there is one coordinator at a time, and numbers them by an epoch
//! that only grows.
//!
//! The dispatcher acquires it before it touches a job, and stops when it is lost.
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
use super::topology::LEASE_BUCKET;

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

    fn renew_every(self) -> Duration {
        self.0 / 3
    }

    /// A holder that could not renew for this long stops. A third of the time is left for what is in flight.
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
    #[error("another coordinator is at work: {holder}")]
    Held {
        /// Name of the holder, as it was given to [`Lease::acquire`].
        holder: String,
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
    at: Instant,
    lost: bool,
}

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
                    return Err(LeaseError::Held { holder: other });
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
        let at = Instant::now();
        let epoch = match write(&context, &holder, time, expected).await {
            Ok(revision) => revision,
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                let holder = "it took the lease at this very moment".to_owned();
                return Err(LeaseError::Held { holder });
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
        renewer.spawn(renew(context.clone(), holder, time, sender));
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

    /// Whether this process may still act as the coordinator. It may not if it was suspended and missed its
    /// renewals.
    pub fn is_held(&self) -> bool {
        let renewal = *self.renewals.borrow();
        !renewal.lost && renewal.at.elapsed() < self.time.valid_for()
    }

    /// Waits until the lease is lost. Safe to drop and call again.
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

fn subject() -> String {
    format!("$KV.{LEASE_BUCKET}.{KEY}")
}

/// Whether these are the headers of the marker that a deleted, purged or expired value leaves.
fn is_marker(headers: &HeaderMap) -> bool {
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

async fn renew(
    context: jetstream::Context,
    holder: String,
    time: LeaseTtl,
    renewals: watch::Sender<Renewal>,
) {
    let mut ticks = tokio::time::interval_at(Instant::now() + time.renew_every(), time.renew_every());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let last = *renewals.borrow();
        let give_up = last.at + time.valid_for();
        tokio::select! {
            _ = ticks.tick() => {}
            () = tokio::time::sleep_until(give_up) => break,
        }
        let at = Instant::now();
        let written = tokio::time::timeout_at(give_up, write(&context, &holder, time, last.revision)).await;
        let revision = match written {
            Ok(Ok(revision)) => revision,
            // Another coordinator wrote the lease, or we did and the answer was lost; only in the second case
            // is it ours.
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => {
                let Some(revision) = own_revision(&context, &holder, last.revision).await else {
                    break;
                };
                revision
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot renew the coordinator's lease yet");
                continue;
            }
            Err(_) => break,
        };
        renewals.send_replace(Renewal {
            revision,
            at,
            lost: false,
        });
    }
    tracing::error!("lost the coordinator's lease");
    renewals.send_modify(|renewal| renewal.lost = true);
}

/// Returns the revision of the stored lease if this process wrote it after `revision`.
async fn own_revision(context: &jetstream::Context, holder: &str, revision: u64) -> Option<u64> {
    let stream = format!("KV_{LEASE_BUCKET}");
    let message = last_of(context, &stream, &subject()).await.ok()??;
    let ours = !is_marker(&message.headers) && &message.payload[..] == holder.as_bytes();
    (ours && message.sequence > revision).then_some(message.sequence)
}
