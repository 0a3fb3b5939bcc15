//! The connections to the farm that jobs run on, which the caller of the dispatcher opens.

use latentfarm_common::blob::Store;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::topology::Topology;

/// A farm to which this process is connected.
#[derive(Clone, Debug)]
pub struct Farm {
    pub connection: Connection,
    pub topology: Topology,
    /// The blob store, which the workers reach under the same URL.
    pub store: Store,
}
