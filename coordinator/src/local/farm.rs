//! The private farm of one render: a server in its job folder, and workers on this machine. `render` starts
//! it before ingest, starts the workers before it dispatches the job, and closes it when the job has ended.

use std::path::{Path, PathBuf};

use latentfarm_common::blob::Store;
use latentfarm_common::error::FileError;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::connect;
use latentfarm_common::nats::server::{EmbeddedServer, ServerBinary, ServerOptions};
use latentfarm_common::nats::topology::{self, Topology};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::LocalFarmError;
use super::joins::Joins;
use super::notice::LocalNotice;
use super::server::SupervisedServer;
use super::watch_file::WatchFile;
use super::workers::{LaunchPlan, LocalWorkers, WorkerOptions, WorkerSpec};
use crate::dispatch::{Farm, FarmError};
use crate::job::folder::JobFolder;

/// A running private server, and this machine's workers while they are started.
pub struct LocalFarm {
    server: SupervisedServer,
    url: String,
    specs: Vec<WorkerSpec>,
    /// Threads of each worker's engine.
    threads: usize,
    connection: Connection,
    /// Follows which workers have joined.
    joining: JoinSet<()>,
    /// `None` before the workers are started and after they are stopped.
    workers: Option<LocalWorkers>,
    /// The workers that are not started again, each with the reason, in one line.
    given_up: Vec<String>,
    notify: mpsc::UnboundedSender<LocalNotice>,
    notices: mpsc::UnboundedReceiver<LocalNotice>,
}

impl LocalFarm {
    /// Starts a server in the job folder and connects to it. The workers are started later: ingest needs
    /// none.
    pub async fn start(
        binary: ServerBinary,
        folder: &JobFolder,
        workers: Vec<WorkerOptions>,
        threads: usize,
    ) -> Result<(Farm, Self), LocalFarmError> {
        let ids = workers.iter().map(|worker| worker.id.clone()).collect();
        let options = ServerOptions::new(binary, absolute(&folder.nats())?, ids);
        let server = EmbeddedServer::start(options)
            .await
            .map_err(LocalFarmError::Server)?;
        let connection = connect::connect(&server.url(), &server.coordinator(), connect::BRIEF).await;
        let connection = connection.map_err(FarmError::from)?;
        topology::check_store(&connection.context)
            .await
            .map_err(FarmError::from)?;
        let store = Store::file_url(&absolute(&folder.blobs())?).and_then(|url| Store::open(&url, None));
        let store = store.map_err(FarmError::from)?;
        let spec = |options: WorkerOptions| WorkerSpec {
            nkey_seed: server.worker(&options.id).and_then(|identity| identity.nkey_seed),
            options,
        };
        let specs: Vec<WorkerSpec> = workers.into_iter().map(spec).collect();
        let url = server.url();
        if let Some(watch) = WatchFile::new(url.clone(), &server.observer()) {
            watch.write(folder.path())?;
        }
        let (notify, notices) = mpsc::unbounded_channel();
        let farm = Farm {
            connection: connection.clone(),
            topology: Topology::default(),
            store,
        };
        let local = Self {
            server: SupervisedServer::new(server, notify.clone()),
            url,
            given_up: Vec::new(),
            specs,
            threads,
            connection,
            joining: JoinSet::new(),
            workers: None,
            notify,
            notices,
        };
        Ok((farm, local))
    }

    /// The names of the workers, whether they run or not.
    pub fn worker_ids(&self) -> impl Iterator<Item = &WorkerId> {
        self.specs.iter().map(|spec| &spec.options.id)
    }

    /// Starts the workers with a worker program and a folder of weights. Their temporary files and logs go to
    /// `scratch`.
    pub fn start_workers(
        &mut self,
        program: &Path,
        weights: &Path,
        scratch: &Path,
    ) -> Result<(), LocalFarmError> {
        let plan = LaunchPlan {
            program: program.to_owned(),
            nats_url: self.url.clone(),
            workers: self.specs.clone(),
            weights: absolute(weights)?,
            threads: self.threads,
            folder: absolute(scratch)?,
        };
        let awaited = plan.workers.iter().map(|spec| &spec.options);
        let awaited = awaited.filter(|options| !options.starts_last);
        let joins = Joins::of(awaited.map(|options| options.id.clone()));
        self.joining.spawn(joins.clone().follow(self.connection.clone()));
        self.workers = Some(LocalWorkers::start(&plan, &joins, &self.notify));
        Ok(())
    }

    /// Makes the workers finish their chunks and end; returns at once.
    pub fn drain_workers(&self) {
        if let Some(workers) = &self.workers {
            workers.drain();
        }
    }

    /// Makes the workers return their chunks and end, and waits until they have ended.
    pub async fn stop_workers(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop().await;
        }
    }

    /// Waits for the next event of the processes.
    pub async fn next_notice(&mut self) -> Option<LocalNotice> {
        self.notices.recv().await
    }

    /// Counts the workers that are left. Returns an error if the farm cannot go on after the event.
    pub fn handle_notice(&mut self, notice: &LocalNotice) -> Result<(), LocalFarmError> {
        match notice {
            LocalNotice::ServerLost { why } => return Err(LocalFarmError::ServerLost { why: why.clone() }),
            LocalNotice::WorkerGivenUp { worker, why } => self.given_up.push(format!("{worker}: {why}")),
            LocalNotice::WorkerDied { .. } | LocalNotice::ServerRestarted { .. } => {}
        }
        if self.given_up.len() >= self.specs.len() {
            let why = self.given_up.join("; ");
            return Err(LocalFarmError::NoWorkers { why });
        }
        Ok(())
    }

    /// Shuts the server down and waits until its process has ended.
    pub async fn close(self) {
        self.server.stop().await;
    }
}

fn absolute(path: &Path) -> Result<PathBuf, FileError> {
    std::path::absolute(path).map_err(FileError::at("resolve", path))
}
