//! The private farm of one render: a server in its job folder, and workers on this machine. `render` starts it, runs
//! its job beside it, and closes it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use latentfarm_common::blob::Store;
use latentfarm_common::error::FileError;
use latentfarm_common::nats::connect::{self, Patience};
use latentfarm_common::nats::server::{EmbeddedServer, ServerBinary, ServerOptions};
use latentfarm_common::nats::topology::Topology;
use tokio::sync::mpsc;

use super::error::FarmError;
use super::notice::LocalNotice;
use super::server::KeptServer;
use super::watch_file::WatchFile;
use super::workers::{LocalWorkers, WorkerOptions, WorkerPlan, WorkerSeat};
use crate::dispatch::Farm;
use crate::job::folder::JobFolder;

pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// A running private server, and this machine's workers from their start to their stop.
pub struct LocalFarm {
    server: KeptServer,
    url: String,
    seats: Vec<WorkerSeat>,
    /// Threads of each worker's engine.
    threads: usize,
    /// `None` before the workers are started and after they are stopped.
    workers: Option<LocalWorkers>,
    /// Workers that have not been given up.
    working: usize,
    notify: mpsc::UnboundedSender<LocalNotice>,
    notices: mpsc::UnboundedReceiver<LocalNotice>,
}

impl LocalFarm {
    /// Starts a server in the job folder and connects to it. The workers are started later: ingest needs none.
    pub async fn start(
        binary: ServerBinary,
        folder: &JobFolder,
        workers: Vec<WorkerOptions>,
        threads: usize,
    ) -> Result<(Farm, Self), FarmError> {
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
        let farm = Farm {
            connection,
            topology: Topology::default(),
            store,
        };
        let local = Self {
            server: KeptServer::new(server, notify.clone()),
            url,
            working: seats.len(),
            seats,
            threads,
            workers: None,
            notify,
            notices,
        };
        Ok((farm, local))
    }

    /// Starts the workers with a worker program and weights; `scratch` takes their temporary files and logs.
    pub fn start_workers(&mut self, program: &Path, weights: &Path, scratch: &Path) -> Result<(), FarmError> {
        let plan = WorkerPlan {
            program: program.to_owned(),
            nats_url: self.url.clone(),
            workers: self.seats.clone(),
            weights: absolute(weights)?,
            threads: self.threads,
            folder: absolute(scratch)?,
        };
        self.workers = Some(LocalWorkers::start(&plan, &self.notify));
        Ok(())
    }

    /// Asks the workers to finish their chunks and leave; returns at once.
    pub fn drain_workers(&self) {
        if let Some(workers) = &self.workers {
            workers.drain();
        }
    }

    /// Makes the workers leave now, and waits until they are gone.
    pub async fn stop_workers(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop().await;
        }
    }

    /// What happens to the processes.
    pub async fn next_notice(&mut self) -> Option<LocalNotice> {
        self.notices.recv().await
    }

    /// Takes note of what happened to a process; an error if the farm cannot go on without it.
    pub fn take(&mut self, notice: &LocalNotice) -> Result<(), FarmError> {
        match notice {
            LocalNotice::ServerLost { why } => return Err(FarmError::ServerLost { why: why.clone() }),
            LocalNotice::WorkerGivenUp { .. } => self.working = self.working.saturating_sub(1),
            LocalNotice::WorkerDied { .. } | LocalNotice::ServerRestarted { .. } => {}
        }
        if self.working == 0 {
            return Err(FarmError::NoWorkers);
        }
        Ok(())
    }

    /// Ends the server and waits until it is gone.
    pub async fn close(self) {
        self.server.stop().await;
    }
}

fn absolute(path: &Path) -> Result<PathBuf, FileError> {
    std::path::absolute(path).map_err(FileError::at("resolve", path))
}
