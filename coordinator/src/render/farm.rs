//! The farm that one render uses: a private server and workers on this machine, or somebody's NATS server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::nats::Role;
use latentfarm_common::nats::connect::{self, ConnectError, Connection, Identity, Patience};
use latentfarm_common::nats::server::{EmbeddedServer, ServerBinary, ServerError, ServerOptions};
use latentfarm_common::nats::topology::{self, Topology, TopologyError};
use latentfarm_common::wire::blob::BlobRef;
use tokio::sync::mpsc;

use crate::dispatch::Farm;
use crate::job::folder::JobFolder;
use crate::local::{
    KeptServer, LocalNotice, LocalWorkers, WatchFile, WatchFileError, WorkerOptions, WorkerPlan, WorkerSeat,
};

/// Object store of a farm without a shared mount.
const FARM_STORE: &str = "nats://farm-media";
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

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

/// A connected farm, with its private server and this machine's workers if it has them.
pub struct RenderFarm {
    connected: Farm,
    private: Option<Private>,
}

struct Private {
    server: KeptServer,
    url: String,
    seats: Vec<WorkerSeat>,
    threads: usize,
    /// `None` before the workers are started and after they are stopped.
    workers: Option<LocalWorkers>,
    /// Workers that have not been given up.
    working: usize,
    notify: mpsc::UnboundedSender<LocalNotice>,
    notices: mpsc::UnboundedReceiver<LocalNotice>,
}

/// Why a farm cannot be used, or cannot be used any longer.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    #[error("cannot start the private nats-server")]
    Server(#[source] ServerError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    WatchFile(#[from] WatchFileError),
    #[error("cannot prepare the farm's streams")]
    Streams(#[source] TopologyError),
    #[error("cannot resolve `{}`", path.display())]
    Resolve {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the private nats-server is lost: {why}")]
    ServerLost { why: String },
    #[error("no worker is left to render the job")]
    NoWorkers,
}

impl RenderFarm {
    /// Starts a private server in the job folder, or connects to somebody's.
    pub async fn open(choice: FarmChoice, folder: &JobFolder) -> Result<Self, FarmError> {
        let opened = match choice {
            FarmChoice::Remote { url } => Self::remote(&url).await?,
            FarmChoice::Private {
                server,
                workers,
                threads,
            } => Self::private(server, folder, workers, threads).await?,
        };
        // Ingest stores blobs before there is a job to dispatch.
        topology::ensure(&opened.connected.connection.context, &opened.connected.topology)
            .await
            .map_err(FarmError::Streams)?;
        Ok(opened)
    }

    async fn private(
        binary: ServerBinary,
        folder: &JobFolder,
        workers: Vec<WorkerOptions>,
        threads: usize,
    ) -> Result<Self, FarmError> {
        let ids = workers.iter().map(|worker| worker.id.clone()).collect();
        let options = ServerOptions::new(binary, absolute(&folder.nats())?, ids);
        let server = EmbeddedServer::start(options).await.map_err(FarmError::Server)?;
        let patience = Patience::For(CONNECT_PATIENCE);
        let connection = connect::connect(&server.url(), &server.coordinator(), patience).await?;
        let store = Store::open(&Store::file_url(&absolute(&folder.blobs())?)?, None)?;
        let seat = |options: WorkerOptions| WorkerSeat {
            nkey_seed: server.worker(&options.id).and_then(|identity| identity.nkey_seed),
            options,
        };
        let seats: Vec<WorkerSeat> = workers.into_iter().map(seat).collect();
        let url = server.url();
        if let Some(watch) = WatchFile::new(url.clone(), &server.observer()) {
            watch.write(folder.path())?;
        }
        let (notify, notices) = mpsc::unbounded_channel();
        Ok(Self {
            connected: farm(connection, store),
            private: Some(Private {
                server: KeptServer::new(server, notify.clone()),
                url,
                working: seats.len(),
                seats,
                threads,
                workers: None,
                notify,
                notices,
            }),
        })
    }

    async fn remote(url: &str) -> Result<Self, FarmError> {
        let identity = Identity::from_environment(Role::Coordinator, "latentfarm render".to_owned());
        let connection = connect::connect(url, &identity, Patience::For(CONNECT_PATIENCE)).await?;
        let store = Store::open(FARM_STORE, Some(&connection.client))?;
        Ok(Self {
            connected: farm(connection, store),
            private: None,
        })
    }

    pub fn connected(&self) -> &Farm {
        &self.connected
    }

    /// Whether the server is this render's own.
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Starts this machine's workers; nothing to do if the farm has its own.
    pub(super) fn start_workers(
        &mut self,
        program: &Path,
        weights: &Path,
        scratch: &Path,
    ) -> Result<(), FarmError> {
        if let Some(private) = &mut self.private {
            let plan = WorkerPlan {
                program: program.to_owned(),
                nats_url: private.url.clone(),
                workers: private.seats.clone(),
                weights: absolute(weights)?,
                threads: private.threads,
                folder: absolute(scratch)?,
            };
            private.workers = Some(LocalWorkers::start(&plan, &private.notify));
        }
        Ok(())
    }

    /// Asks this machine's workers to finish their chunks and leave.
    pub(super) fn drain_workers(&self) {
        if let Some(workers) = self.private.as_ref().and_then(|private| private.workers.as_ref()) {
            workers.drain();
        }
    }

    /// Makes this machine's workers leave now, and waits until they are gone.
    pub(super) async fn stop_workers(&mut self) {
        let private = self.private.as_mut();
        if let Some(workers) = private.and_then(|private| private.workers.take()) {
            workers.stop().await;
        }
    }

    /// What happens to the processes of a private farm; `None` for somebody else's.
    pub(super) async fn next_notice(&mut self) -> Option<LocalNotice> {
        self.private.as_mut()?.notices.recv().await
    }

    /// Takes note of what happened to a process; an error if the farm cannot go on without it.
    pub(super) fn take(&mut self, notice: &LocalNotice) -> Result<(), FarmError> {
        match (notice, &mut self.private) {
            (LocalNotice::ServerLost { why }, _) => Err(FarmError::ServerLost { why: why.clone() }),
            (LocalNotice::WorkerGivenUp { .. }, Some(private)) => {
                private.working = private.working.saturating_sub(1);
                if private.working == 0 {
                    return Err(FarmError::NoWorkers);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Leaves the farm; a private server is stopped.
    pub async fn close(self) {
        self.connected.connection.close().await;
        if let Some(private) = self.private {
            private.server.stop().await;
        }
    }
}

fn farm(connection: Connection, store: Store) -> Farm {
    Farm {
        connection,
        topology: Topology::default(),
        store,
    }
}

/// A blob as a file on this machine: where the store keeps it, or a copy in `scratch`, fetched once.
pub(super) async fn local_copy(store: &Store, blob: &BlobRef, scratch: &Path) -> Result<PathBuf, BlobError> {
    if let Some(path) = store.local_path(blob)? {
        return Ok(path);
    }
    let path = scratch.join(blob.digest.to_string());
    let is_here = std::fs::metadata(&path).is_ok_and(|found| found.len() == blob.bytes);
    if !is_here {
        store.get_to_file(blob, &path).await?;
    }
    Ok(path)
}

fn absolute(path: &Path) -> Result<PathBuf, FarmError> {
    std::path::absolute(path).map_err(|source| FarmError::Resolve {
        path: path.to_owned(),
        source,
    })
}
