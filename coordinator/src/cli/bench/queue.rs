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
use latentfarm_common::digest::Digest;
use latentfarm_common::frame::{Colour, Matrix, PictureFormat, Range};
use latentfarm_common::ids::{JobId, Work, WorkerId};
use latentfarm_common::nats::connect::{self, Patience};
use latentfarm_common::nats::server::{EmbeddedServer, ServerBinary, ServerOptions};
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::shutdown;
use latentfarm_common::time::{FrameRate, TimeBase, WINDOW_FRAMES};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{
    AudioSpec, AudioWindows, EncoderSpec, JobSpec, ModelSpec, OutputFrame, SegmentEntry, SilenceMode,
    SourceSpec, Timeline,
};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::Settings;
use super::figures::QueueFigures;
use crate::dispatch::{self, DispatchSettings, Ending, Farm, JobEvent, JobNeeds};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Source frames: one analysis chunk, out of the way before the render chunks begin.
const SOURCES: u32 = 480;
const SYNCED_WRITES: usize = 51;
const WORKER_LEAVES: Duration = Duration::from_secs(5);

pub(super) async fn measure(
    settings: &Settings,
    server: ServerBinary,
    worker: &Path,
) -> anyhow::Result<QueueFigures> {
    let id: WorkerId = "bench".parse()?;
    let options = ServerOptions::new(server, settings.folder.join("nats"), vec![id.clone()]);
    let server = EmbeddedServer::start(options)
        .await
        .context("cannot start the private nats-server")?;
    let patience = Patience::For(CONNECT_PATIENCE);
    let connection = connect::connect(&server.url(), &server.coordinator(), patience).await?;
    let store = Store::open(&Store::file_url(&settings.folder.join("blobs"))?, None)?;
    let seed = server.worker(&id).and_then(|identity| identity.nkey_seed);
    let mut worker = start(worker, &server.url(), &id, seed).context("cannot start the worker")?;
    let farm = Farm {
        connection,
        topology: Topology::default(),
        store,
    };
    let (spec, timeline) = job(settings.chunks);
    let ends = tokio::select! {
        ends = run(&farm, spec, timeline, &settings.folder) => ends?,
        status = worker.wait() => anyhow::bail!("the worker ended before its tasks ({})", status?),
    };
    leave(&mut worker).await;
    farm.connection.close().await;
    drop(server);
    let between = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let synced_write = synced_write(&settings.folder).context("cannot write to the scratch folder")?;
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
        command.env("LATENTFARM_NKEY_SEED", seed);
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

/// A job of so many chunks of one window each, whose blobs nobody opens.
fn job(chunks: u32) -> (JobSpec, Timeline) {
    let blob = |name: &str| BlobRef {
        digest: Digest::of(name.as_bytes()),
        bytes: name.len() as u64,
    };
    let outputs = u64::from(chunks) * WINDOW_FRAMES;
    let timeline = Timeline {
        source_pts: (0..i64::from(SOURCES)).map(|n| n * 40).collect(),
        segments: vec![SegmentEntry {
            blob: blob("segment"),
            first: 0,
            frames: u64::from(SOURCES),
        }],
        outputs: (0..SOURCES)
            .cycle()
            .zip(0..outputs)
            .map(|(source, _)| OutputFrame { source, synced: true })
            .collect(),
        audio: vec![blob("speech")],
        silence: Vec::new(),
    };
    let colour = Colour {
        matrix: Matrix::Bt709,
        range: Range::Limited,
        primaries_tag: 1,
        transfer_tag: 1,
        matrix_tag: 1,
        range_tagged: true,
    };
    let window = u32::try_from(WINDOW_FRAMES).unwrap_or(16);
    let spec = JobSpec {
        id: JobId::from_digest(&Digest::of(b"bench")),
        video_digest: Digest::of(b"video"),
        audio_digest: Digest::of(b"audio"),
        source: SourceSpec {
            picture: PictureFormat {
                width: 640,
                height: 480,
                colour,
                sample_aspect: (1, 1),
            },
            time_base: TimeBase { num: 1, den: 1000 },
            frames: u64::from(SOURCES),
        },
        audio: AudioSpec {
            digest: Digest::of(b"pcm"),
            samples: 16_000,
            log_mel_max: 0.5,
            windows: AudioWindows::Overlapping,
            silence: SilenceMode::Off,
        },
        model: ModelSpec {
            weights: Digest::of(b"weights"),
            synthetic: true,
            resolution_px: 256,
            steps: 1,
            guidance_scale: 1.0,
            seed: 1,
        },
        encoder: EncoderSpec {
            rate: FrameRate::FILM_25,
            crf: None,
            preset: "medium".to_owned(),
        },
        frames: outputs,
        chunk_frames: window,
        analyze_frames: SOURCES,
        timeline: blob("timeline"),
    };
    (spec, timeline)
}
