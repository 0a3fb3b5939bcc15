//! The lease: a key with a time to live, renewed by compare-and-set.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use latentfarm_common::nats::lease::Lost;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::gate::{Gate, Gated};
use super::world::World;
use crate::dispatch::lease_view::LeaseView;

const TIME_TO_LIVE: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);
const VALID_FOR: Duration = Duration::from_secs(10);

/// The key on the server.
#[derive(Debug, Default)]
pub(super) struct LeaseKey {
    revision: u64,
    /// The epoch of its holder, and when it expires.
    holder: Option<(u64, Instant)>,
    /// The last epoch.
    last: u64,
}

impl LeaseKey {
    /// The epoch of the last holder.
    pub(super) fn epoch(&self) -> u64 {
        self.last
    }

    fn is_free(&self, now: Instant) -> bool {
        self.holder.is_none_or(|(_, until)| until <= now)
    }

    fn acquire(&mut self, now: Instant) -> Option<u64> {
        if !self.is_free(now) {
            return None;
        }
        self.revision += 1;
        self.last = self.revision;
        self.holder = Some((self.revision, now + TIME_TO_LIVE));
        Some(self.revision)
    }

    /// Renews the lease; false if somebody else has it or had it.
    fn renew(&mut self, epoch: u64, now: Instant) -> bool {
        if self.last != epoch {
            return false;
        }
        self.revision += 1;
        self.holder = Some((epoch, now + TIME_TO_LIVE));
        true
    }

    fn release(&mut self, epoch: u64) {
        if self.holder.is_some_and(|(holder, _)| holder == epoch) {
            self.revision += 1;
            self.holder = None;
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Renewal {
    at: Instant,
    lost: bool,
}

/// A lease that was acquired, as its coordinator knows it.
#[derive(Debug)]
pub(super) struct Lease {
    epoch: u64,
    renewals: watch::Receiver<Renewal>,
    _renewer: JoinSet<()>,
}

impl Lease {
    /// Takes the lease if it is free and the coordinator is not cut off.
    pub(super) fn acquire(world: &Arc<World>, coordinator: usize, gate: &Arc<Gate>) -> Option<Self> {
        let now = Instant::now();
        let acquired = world.with(|state| {
            let epoch = (!state.cut_off.contains_key(&coordinator)).then(|| state.lease.acquire(now));
            epoch.flatten()
        });
        let epoch = acquired?;
        world.with(|state| {
            state
                .recorder
                .log(|| format!("coordinator {coordinator} takes the lease, epoch {epoch}"));
        });
        let (sender, renewals) = watch::channel(Renewal { at: now, lost: false });
        let renewing = renew(Arc::clone(world), coordinator, epoch, sender);
        Some(Self {
            epoch,
            renewals,
            _renewer: JoinSet::from_iter([Gated::new(gate, renewing)]),
        })
    }

    /// Gives the lease back.
    pub(super) fn release(self, world: &World) {
        world.with(|state| state.lease.release(self.epoch));
    }

    pub(super) fn is_lost(&self) -> bool {
        self.renewals.borrow().lost
    }
}

async fn renew(world: Arc<World>, coordinator: usize, epoch: u64, renewals: watch::Sender<Renewal>) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let at = Instant::now();
        let renewed = world.with(|state| {
            if state.cut_off.contains_key(&coordinator) || state.fault("an operation fails") {
                return None;
            }
            Some(state.lease.renew(epoch, at))
        });
        match renewed {
            Some(true) => _ = renewals.send_replace(Renewal { at, lost: false }),
            Some(false) => break,
            None => {}
        }
    }
    world.with(|state| state.recorder.count("a lease is lost"));
    renewals.send_modify(|renewal| renewal.lost = true);
}

impl LeaseView for Lease {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn is_held(&self) -> bool {
        is_current(*self.renewals.borrow())
    }

    fn held(&self) -> BoxFuture<'_, Result<(), Lost>> {
        let mut renewals = self.renewals.clone();
        Box::pin(async move {
            let decided = renewals.wait_for(|renewal| renewal.lost || is_current(*renewal));
            match decided.await {
                Ok(renewal) if !renewal.lost => Ok(()),
                _ => Err(Lost),
            }
        })
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        let mut renewals = self.renewals.clone();
        Box::pin(async move {
            let _ended = renewals.wait_for(|renewal| renewal.lost).await;
        })
    }
}

fn is_current(renewal: Renewal) -> bool {
    !renewal.lost && renewal.at.elapsed() < VALID_FOR
}

/// What each link knows of the lease of its coordinator.
#[derive(Debug, Default)]
pub(super) struct Standing(Mutex<Option<watch::Receiver<Renewal>>>);

impl Standing {
    pub(super) fn set(&self, lease: &Lease) {
        *self.0.lock().unwrap() = Some(lease.renewals.clone());
    }

    /// Whether the coordinator has its lease, by its own account.
    pub(super) fn is_held(&self) -> bool {
        let known = self.0.lock().unwrap();
        known
            .as_ref()
            .is_some_and(|renewals| is_current(*renewals.borrow()))
    }
}
