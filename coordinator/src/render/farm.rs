//! Which farm a render uses, and the way to it.

use latentfarm_common::blob::Store;
use latentfarm_common::nats::Role;
use latentfarm_common::nats::connect::{self, Identity, Patience};
use latentfarm_common::nats::server::ServerBinary;
use latentfarm_common::nats::topology::{self, Topology};

use crate::dispatch::Farm;
use crate::job::folder::JobFolder;
use crate::local::{CONNECT_PATIENCE, FarmError, LocalFarm, WorkerOptions};

/// Object store of a farm without a shared mount.
const FARM_STORE: &str = "nats://farm-media";

/// Which farm a render uses.
#[derive(Clone, Debug)]
pub enum FarmChoice {
    /// A farm that has its own workers.
    Remote { url: String },
    /// A server in the job folder, and workers on this machine.
    Private {
        server: ServerBinary,
        workers: Vec<WorkerOptions>,
        /// Threads of each worker's engine.
        threads: usize,
    },
}

impl FarmChoice {
    /// Connects to the farm, after starting it if it is a private one.
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
        // Ingest stores blobs before there is a job to dispatch.
        topology::ensure(&farm.connection.context, &farm.topology)
            .await
            .map_err(FarmError::Streams)?;
        Ok((farm, local))
    }
}

async fn remote(url: &str) -> Result<Farm, FarmError> {
    let identity = Identity::from_environment(Role::Coordinator, "latentfarm render".to_owned());
    let connection = connect::connect(url, &identity, Patience::For(CONNECT_PATIENCE)).await?;
    let store = Store::open(FARM_STORE, Some(&connection.client))?;
    Ok(Farm {
        connection,
        topology: Topology::default(),
        store,
    })
}
