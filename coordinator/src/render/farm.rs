//! The private farm of a render, which is started with it and closed at its end.

use latentfarm_common::nats::server::ServerBinary;

use super::error::RenderError;
use crate::dispatch::Farm;
use crate::job::folder::JobFolder;
use crate::local::{LocalFarm, WorkerOptions};

/// A farm of one render: a server in the job folder, and workers on this machine.
#[derive(Clone, Debug)]
pub struct PrivateFarm {
    pub server: ServerBinary,
    pub workers: Vec<WorkerOptions>,
    /// Threads of each worker's engine.
    pub threads: usize,
}

impl PrivateFarm {
    /// Starts the server, connects to it, and prepares its streams.
    pub(super) async fn open(self, folder: &JobFolder) -> Result<(Farm, LocalFarm), RenderError> {
        let Self {
            server,
            workers,
            threads,
        } = self;
        let (farm, local) = LocalFarm::start(server, folder, workers, threads).await?;
        // The dispatcher would prepare the streams too, but ingest stores blobs before there is a job to
        // dispatch.
        farm.prepare().await?;
        Ok((farm, local))
    }
}
