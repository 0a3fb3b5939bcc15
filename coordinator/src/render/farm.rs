//! The farm of a render: an existing one, or a private one that is started with the render.

use latentfarm_common::blob::Store;
use latentfarm_common::nats::connect::{self, Identity};
use latentfarm_common::nats::server::ServerBinary;
use latentfarm_common::nats::topology::{self, Topology};
use latentfarm_common::nats::{Role, StreamError, storage};

use super::error::RenderError;
use super::room::NoStorage;
use crate::dispatch::Farm;
use crate::job::folder::JobFolder;
use crate::local::{FarmError, LocalFarm, WorkerOptions};

/// URL of the object store that holds the media of a farm of several machines.
pub const FARM_STORE: &str = "nats://farm-media";

/// The farm that a render is given.
#[derive(Clone, Debug)]
pub enum FarmChoice {
    /// An existing farm with its own workers.
    Remote { url: String },
    /// A farm of this render: a server in the job folder, and workers on this machine.
    Private {
        server: ServerBinary,
        workers: Vec<WorkerOptions>,
        /// Threads of each worker's engine.
        threads: usize,
    },
}

impl FarmChoice {
    /// Starts the farm if it is private, connects to it, and prepares its streams.
    pub(super) async fn open(self, folder: &JobFolder) -> Result<(Farm, Option<LocalFarm>), FarmError> {
        let (farm, local) = match self {
            Self::Remote { url } => (remote(&url).await?, None),
            Self::Private {
                server,
                workers,
                threads,
            } => {
                let (farm, local) = LocalFarm::start(server, folder, workers, threads).await?;
                (farm, Some(local))
            }
        };
        // The dispatcher would prepare the streams too, but ingest stores blobs before there is a job to
        // dispatch.
        match topology::ensure(&farm.connection.context, &farm.topology).await {
            Ok(_) => Ok((farm, local)),
            Err(error) if storage::is_full(&error) => Err(too_small(&farm, error).await),
            Err(error) => Err(FarmError::Streams(error)),
        }
    }
}

/// Returns the error of a server that allows less than the streams may need.
async fn too_small(farm: &Farm, source: StreamError) -> FarmError {
    let account = storage::account_room(&farm.connection.context).await;
    FarmError::Storage {
        need_bytes: storage::least_bytes(&farm.topology),
        limit_bytes: account.ok().flatten().map(|room| room.limit_bytes),
        source,
    }
}

/// Checks before any upload whether the farm has room for blobs of `need_bytes`.
pub(crate) async fn ensure_storage(farm: &Farm, need_bytes: u64) -> Result<(), RenderError> {
    let room = storage::media_room(&farm.connection.context).await;
    let room = room.map_err(FarmError::Streams)?;
    Ok(NoStorage::check(need_bytes, room)?)
}

async fn remote(url: &str) -> Result<Farm, FarmError> {
    let identity = Identity::from_environment(Role::Coordinator, "latentfarm render".to_owned());
    let connection = connect::connect(url, &identity, connect::BRIEF).await?;
    let store = Store::open(FARM_STORE, Some(&connection.client))?;
    Ok(Farm {
        connection,
        topology: Topology::default(),
        store,
    })
}
