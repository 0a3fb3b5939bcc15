//! The farm that one render uses: a private server and workers on this machine, or somebody's NATS server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::nats::Role;
use latentfarm_common::nats::connect::{self, Identity, Patience};
use latentfarm_common::nats::server::{EmbeddedServer, ServerBinary, ServerOptions};
use latentfarm_common::nats::topology::{self, Topology};
use latentfarm_common::wire::blob::BlobRef;
use tokio::sync::mpsc;

use super::preflight::Preflight;
use super::settings::{Settings, WorkerOptions};
use crate::dispatch::Farm;
use crate::local::{JobFolder, KeptServer, LocalNotice, LocalWorkers, WatchFile, WorkerPlan, WorkerSeat};

/// Object store of a farm without a shared mount.
const FARM_STORE: &str = "nats://farm-media";
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// A connected farm, with its private server where it has one.
pub(super) struct LocalFarm {
    pub(super) farm: Farm,
    private: Option<Private>,
}

struct Private {
    server: KeptServer,
    url: String,
    workers: Vec<WorkerSeat>,
    notices: mpsc::UnboundedSender<LocalNotice>,
}

impl LocalFarm {
    /// Starts a private server in the job folder, or joins the farm that the settings name. What happens to the
    /// processes of a private farm goes to `notices`.
    pub(super) async fn open(
        server: Option<ServerBinary>,
        settings: &Settings,
        folder: &JobFolder,
        notices: mpsc::UnboundedSender<LocalNotice>,
    ) -> anyhow::Result<Self> {
        let opened = match (server, &settings.nats) {
            (_, Some(url)) => Self::remote(url).await?,
            (Some(binary), None) => Self::private(binary, folder, &settings.workers, notices).await?,
            (None, None) => anyhow::bail!("no nats-server was looked for"),
        };
        // Ingest stores blobs before there is a job to dispatch.
        topology::ensure(&opened.farm.connection.context, &opened.farm.topology)
            .await
            .context("cannot prepare the farm's streams")?;
        Ok(opened)
    }

    async fn private(
        binary: ServerBinary,
        folder: &JobFolder,
        wanted: &[WorkerOptions],
        notices: mpsc::UnboundedSender<LocalNotice>,
    ) -> anyhow::Result<Self> {
        let ids = wanted.iter().map(|worker| worker.id.clone()).collect();
        let options = ServerOptions::new(binary, absolute(&folder.nats())?, ids);
        let server = EmbeddedServer::start(options)
            .await
            .context("cannot start the private nats-server")?;
        let patience = Patience::For(CONNECT_PATIENCE);
        let connection = connect::connect(&server.url(), &server.coordinator(), patience).await?;
        let store = Store::open(&Store::file_url(&absolute(&folder.blobs())?)?, None)?;
        let seat = |worker: &WorkerOptions| WorkerSeat {
            id: worker.id.clone(),
            nkey_seed: server.worker(&worker.id).and_then(|identity| identity.nkey_seed),
            args: worker.args.clone(),
        };
        let workers = wanted.iter().map(seat).collect();
        let farm = Farm {
            connection,
            topology: Topology::default(),
            store,
        };
        let url = server.url();
        if let Some(watch) = WatchFile::new(url.clone(), &server.observer()) {
            watch.write(folder.path())?;
        }
        let server = KeptServer::new(server, notices.clone());
        Ok(Self {
            farm,
            private: Some(Private {
                server,
                url,
                workers,
                notices,
            }),
        })
    }

    async fn remote(url: &str) -> anyhow::Result<Self> {
        let identity = Identity::from_environment(Role::Coordinator, "latentfarm render".to_owned());
        let connection = connect::connect(url, &identity, Patience::For(CONNECT_PATIENCE)).await?;
        let store = Store::open(FARM_STORE, Some(&connection.client))?;
        Ok(Self {
            farm: Farm {
                connection,
                topology: Topology::default(),
                store,
            },
            private: None,
        })
    }

    /// Whether no other coordinator can be alive: the job folder's lock covers the private server.
    pub(super) fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Starts this machine's workers; `None` where the farm has its own.
    pub(super) fn start_workers(
        &self,
        settings: &Settings,
        preflight: &Preflight,
        folder: &JobFolder,
    ) -> anyhow::Result<Option<LocalWorkers>> {
        let Some(private) = &self.private else {
            return Ok(None);
        };
        let plan = WorkerPlan {
            program: preflight.worker.clone(),
            nats_url: private.url.clone(),
            workers: private.workers.clone(),
            weights: absolute(&settings.weights)?,
            threads: settings.threads_per_worker,
            folder: absolute(&folder.scratch())?,
        };
        Ok(Some(LocalWorkers::start(&plan, &private.notices)))
    }

    /// Leaves the farm; a private server is stopped.
    pub(super) async fn close(self) {
        self.farm.connection.close().await;
        if let Some(private) = self.private {
            private.server.stop().await;
        }
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

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot resolve `{}`", path.display()))
}
