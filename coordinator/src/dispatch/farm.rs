//! The connections to the farm that jobs run on, which the caller of the dispatcher opens.

use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::nats::schema::OtherSchema;
use latentfarm_common::nats::topology::{self, Topology};
use latentfarm_common::nats::{ConnectError, Identity, connect};
use latentfarm_common::nats::{Connection, StreamError, storage};

/// URL of the object store that holds the media of a farm of several machines.
const FARM_STORE: &str = "nats://farm-media";

/// A farm to which this process is connected.
#[derive(Clone, Debug)]
pub struct Farm {
    pub connection: Connection,
    pub topology: Topology,
    /// The blob store, which the workers reach under the same URL.
    pub store: Store,
}

/// Why a farm cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    OtherSchema(#[from] OtherSchema),
    #[error("cannot prepare the farm's streams")]
    Streams(#[source] StreamError),
    /// Copies were asked for, and the server is alone.
    #[error(
        "the NATS server at {url} is not part of a cluster, so that it cannot keep several copies: give the address of \
         a cluster of at least three servers, or leave out --replicas"
    )]
    NoCluster { url: String, source: StreamError },
    /// The least limits of the streams exceed what the server allows, so that they cannot be created.
    #[error(
        "the farm's streams need at least {} MiB together, and the NATS server allows {}: raise the limit (`max_file` in \
         its configuration, or that of the account)",
        need_bytes >> 20, described(*limit_bytes)
    )]
    Storage {
        need_bytes: u64,
        /// The limit of the account, if it has one of its own.
        limit_bytes: Option<u64>,
        source: StreamError,
    },
}

impl Farm {
    /// Connects to the farm of a server. One whose store another release has written is refused.
    pub async fn connect(url: &str, identity: &Identity) -> Result<Self, FarmError> {
        let connection = connect::connect(url, identity, connect::BRIEF).await?;
        topology::check_store(&connection.context).await?;
        Ok(Self {
            store: Store::open(FARM_STORE, Some(&connection.client))?,
            topology: Topology::default(),
            connection,
        })
    }

    /// Makes the streams and buckets of the farm that do not exist.
    pub async fn prepare(&self) -> Result<(), FarmError> {
        let context = &self.connection.context;
        let source = match topology::ensure(context, &self.topology).await {
            Ok(_) => return Ok(()),
            Err(error) if storage::is_full(&error) => error,
            Err(source) if storage::needs_cluster(&source) => {
                let url = self.connection.url().to_owned();
                return Err(FarmError::NoCluster { url, source });
            }
            Err(error) => {
                let other = error.other_schema().copied();
                return Err(other.map_or(FarmError::Streams(error), FarmError::OtherSchema));
            }
        };
        let account = storage::account_room(context).await;
        Err(FarmError::Storage {
            need_bytes: storage::least_bytes(&self.topology),
            limit_bytes: account.ok().flatten().map(|room| room.limit_bytes),
            source,
        })
    }
}

fn described(limit_bytes: Option<u64>) -> String {
    limit_bytes.map_or_else(|| "less".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
}
