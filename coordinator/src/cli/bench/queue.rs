//! Measures the time that the farm adds to a chunk, with a private server that syncs every write, the real
//! dispatcher, and a real worker (`latentfarm-worker idle`) that completes its tasks without rendering.
//!
//! With one worker and no work, the time from the end of one chunk to the end of the next is all that the
//! farm adds to a chunk: pull, look-up, event, blob, done record, acknowledgement, and the coordinator's
//! verification. Publishing goes on at the same time.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use latentfarm_common::blob::Store;
use latentfarm_common::ids::{WorkKind, WorkerId};
use latentfarm_common::nats::connect;
use latentfarm_common::nats::server::{EmbeddedServer, ServerBinary, ServerOptions};
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::shutdown;
use latentfarm_common::time::WINDOW_FRAMES;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::figures::QueueFigures;
use crate::dispatch::benchmark_job::{benchmark_job, benchmark_segments};
use crate::dispatch::{self, DispatchSettings, Ending, Farm, JobEvent, JobNeeds, PlannedJob};
use crate::job::segments::whole_video;
use crate::local::{signal_child, spawn_worker};

/// Source frames of the job. They are one analysis chunk, which is done before the render chunks begin.
const SOURCES: u32 = 480;
const SYNCED_WRITES: usize = 51;
/// The worker is killed if it has not ended so long after SIGTERM.
const WORKER_STOP_GRACE: Duration = Duration::from_secs(5);

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
    let connection = connect::connect(&server.url(), &server.coordinator(), connect::BRIEF).await?;
    let store = Store::open(&Store::file_url(&folder.join("blobs"))?, None)?;
    let seed = server.worker(&id).and_then(|identity| identity.nkey_seed);
    let mut command = Command::new(worker);
    command
        .args(["idle", "--nats", &server.url(), "--name", id.as_str()])
        .stderr(Stdio::null());
    let mut worker = spawn_worker(&mut command, seed.as_deref()).context("cannot start the worker")?;
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
    stop(&mut worker).await;
    farm.connection.close().await;
    drop(server);
    let between = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let synced_write = synced_write(folder).context("cannot write to the scratch folder")?;
    QueueFigures::new(ends.len(), between, synced_write).context("fewer than two chunks ended")
}

/// Returns the median time of a small write that is synced to the disk.
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

/// Runs the job and returns the time at which the coordinator reported the end of each render chunk.
async fn run(farm: &Farm, spec: JobSpec, timeline: Timeline, folder: &Path) -> anyhow::Result<Vec<Instant>> {
    let chunks = spec.frames / WINDOW_FRAMES;
    let (observer, mut events) = mpsc::unbounded_channel();
    let collecting = tokio::spawn(async move {
        let mut ends = Vec::new();
        while let Some(event) = events.recv().await {
            match event {
                JobEvent::ChunkDone { chunk, .. } if chunk.work == WorkKind::Render => {
                    ends.push(Instant::now());
                }
                event @ JobEvent::Waiting { .. } => tracing::error!("{event}"),
                _ => {}
            }
        }
        ends
    });
    let (_trigger, shutdown, _drain) = shutdown::channel();
    let dispatch = DispatchSettings::new(folder.join("job"), JobNeeds::flat_cpu(1));
    let reader = dispatch::SegmentReader {
        check: Arc::new(|_, _, _| Ok(())),
        compare: Arc::new(|_, _| Err("there are no pictures".to_owned())),
    };
    let video = whole_video(benchmark_segments(SOURCES));
    let planned = PlannedJob {
        spec,
        timeline,
        video,
    };
    let dispatch::OnlyJob { end, lease } =
        dispatch::run_job(farm, planned, dispatch, reader, observer, shutdown).await?;
    anyhow::ensure!(
        end.ending == Ending::Complete,
        "not all of the {chunks} chunks were completed: {:?}",
        end.ending
    );
    lease.release().await;
    Ok(collecting.await?)
}

/// Sends SIGTERM to the worker, and kills it if it does not end.
async fn stop(worker: &mut Child) {
    signal_child(worker, Signal::SIGTERM);
    if tokio::time::timeout(WORKER_STOP_GRACE, worker.wait())
        .await
        .is_err()
    {
        let _already_ended = worker.kill().await;
    }
}

/// Returns a job of `chunks` render chunks of one window each.
fn job(chunks: u32) -> (JobSpec, Timeline) {
    let window = u32::try_from(WINDOW_FRAMES).unwrap_or(16);
    let (mut spec, timeline) = benchmark_job(SOURCES, chunks * window);
    spec.analyze_frames = SOURCES;
    (spec, timeline)
}
