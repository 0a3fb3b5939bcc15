//! What a chunk costs besides its work: a private server with every write synced, the real dispatcher, and a
//! real worker whose tasks are nothing to do.
//!
//! With one worker and no work, the time from the end of one chunk to the end of the next is all that the farm
//! adds to a chunk: pull, look-up, event, blob, done record, acknowledgement, and what the coordinator does until
//! it counts as done. Publishing goes on at the same time.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use latentfarm_common::blob::Store;
use latentfarm_common::ids::{Work, WorkerId};
use latentfarm_common::nats::connect::{self, Patience, SEED_VARIABLE};
use latentfarm_common::nats::server::{EmbeddedServer, ServerBinary, ServerOptions};
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::shutdown;
use latentfarm_common::time::WINDOW_FRAMES;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::figures::QueueFigures;
use crate::dispatch::benchmark_job::benchmark_job;
use crate::dispatch::{self, DispatchSettings, Ending, Farm, JobEvent, JobNeeds};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Source frames: one analysis chunk, out of the way before the render chunks begin.
const SOURCES: u32 = 480;
const SYNCED_WRITES: usize = 51;
const WORKER_LEAVES: Duration = Duration::from_secs(5);

pub(super) async fn measure(
    chunks: u32,
    folder: &Path,
    server: ServerBinary,
    worker: &Path,
) -> anyhow::Result<QueueFigures> {
    let id: WorkerId = "bench".parse()?;
    let options = ServerOptions::new(server, folder.join("nats"), vec![id.clone()]);
    let server = EmbeddedServer::start(options)
        .await
        .context("cannot start the private nats-server")?;
    let patience = Patience::For(CONNECT_PATIENCE);
    let connection = connect::connect(&server.url(), &server.coordinator(), patience).await?;
    let store = Store::open(&Store::file_url(&folder.join("blobs"))?, None)?;
    let seed = server.worker(&id).and_then(|identity| identity.nkey_seed);
    let mut worker = start(worker, &server.url(), &id, seed).context("cannot start the worker")?;
    let farm = Farm {
        connection,
        topology: Topology::default(),
        store,
    };
    let (spec, timeline) = job(chunks);
    let ends = tokio::select! {
        ends = run(&farm, spec, timeline, folder) => ends?,
        status = worker.wait() => anyhow::bail!("the worker ended before its tasks ({})", status?),
    };
    leave(&mut worker).await;
    farm.connection.close().await;
    drop(server);
    let between = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let synced_write = synced_write(folder).context("cannot write to the scratch folder")?;
    QueueFigures::new(ends.len(), between, synced_write).context("fewer than two chunks ended")
}

/// What the disk takes for a small write that is to survive a power cut: the median of a few.
fn synced_write(folder: &Path) -> std::io::Result<Duration> {
    let mut file = File::create(folder.join("synced"))?;
    let mut times = Vec::new();
    for _ in 0..SYNCED_WRITES {
        let started = Instant::now();
        file.write_all(&[0; 512])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// The time of each render chunk's end, as the coordinator heard it.
async fn run(farm: &Farm, spec: JobSpec, timeline: Timeline, folder: &Path) -> anyhow::Result<Vec<Instant>> {
    let chunks = spec.frames / WINDOW_FRAMES;
    let (observer, mut events) = mpsc::unbounded_channel();
    let listening = tokio::spawn(async move {
        let mut ends = Vec::new();
        while let Some(event) = events.recv().await {
            if let JobEvent::ChunkDone { chunk, .. } = event
                && chunk.work == Work::Render
            {
                ends.push(Instant::now());
            }
        }
        ends
    });
    let (_trigger, shutdown, _drain) = shutdown::channel();
    let dispatch = DispatchSettings::new(folder.join("job"), JobNeeds::flat_cpu(1));
    let check: dispatch::Check = Arc::new(|_, _| Ok(()));
    let result = dispatch::run_job(farm, spec, timeline, dispatch, check, observer, shutdown).await?;
    anyhow::ensure!(
        result.ending == Ending::Complete,
        "not all of the {chunks} chunks came through: {:?}",
        result.ending
    );
    result.lease.release().await;
    Ok(listening.await?)
}

fn start(program: &Path, url: &str, id: &WorkerId, seed: Option<String>) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(["idle", "--nats", url, "--name", id.as_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C is for the coordinator.
        .process_group(0)
        .kill_on_drop(true);
    if let Some(seed) = seed {
        command.env(SEED_VARIABLE, seed);
    }
    latentfarm_common::child::die_with_parent(command.as_std_mut());
    command.spawn()
}

/// Asks the worker to leave, and sees to it that it is gone.
async fn leave(worker: &mut Child) {
    if let Some(pid) = worker.id().and_then(|pid| i32::try_from(pid).ok()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    if tokio::time::timeout(WORKER_LEAVES, worker.wait()).await.is_err() {
        let _gone = worker.kill().await;
    }
}

/// A job of so many chunks of one window each.
fn job(chunks: u32) -> (JobSpec, Timeline) {
    let window = u32::try_from(WINDOW_FRAMES).unwrap_or(16);
    let (mut spec, timeline) = benchmark_job(SOURCES, chunks * window);
    spec.analyze_frames = SOURCES;
    (spec, timeline)
}
