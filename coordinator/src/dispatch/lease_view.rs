//! What the dispatcher asks of the farm's lease before it acts.

use futures::future::BoxFuture;
use latentfarm_common::nats::lease::{Lease, Lost};

/// The lease of the coordinator that runs the dispatcher.
pub(super) trait LeaseView: Send + Sync {
    /// The fencing token, which is larger than that of every earlier holder.
    fn epoch(&self) -> u64;
    /// Whether this process may still act as the coordinator.
    fn is_held(&self) -> bool;
    /// Waits until this process may act as the coordinator.
    ///
    /// # Errors
    /// If another coordinator has the lease, or had it.
    fn held(&self) -> BoxFuture<'_, Result<(), Lost>>;
    /// Waits until the lease is lost to another coordinator.
    fn lost(&self) -> BoxFuture<'_, ()>;
}

impl LeaseView for Lease {
    fn epoch(&self) -> u64 {
        self.epoch()
    }

    fn is_held(&self) -> bool {
        self.is_held()
    }

    fn held(&self) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(self.held())
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.lost())
    }
}
