//! `latentfarm render`: from two files to one, with everything started, watched, and put away again.

use std::io;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::nats::server::locate;
use latentfarm_common::shutdown::{self, Phase, Shutdown};
use latentfarm_common::wire;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::args::RenderArgs;
use super::farm::LocalFarm;
use super::preflight::{self, Preflight, PreflightError};
use super::progress::Ui;
use super::settings::Settings;
use super::watch::{self, Watched};
use super::{CommandError, Ending, finish};
use crate::ingest::{BlobSink, Examined, IngestProgress, IngestStage, Ingested};
use crate::job::store;
use crate::local::{JobFolder, LocalNotice};

pub(super) fn main(args: RenderArgs) -> Result<Ending, CommandError> {
    let settings = Settings::new(args).map_err(CommandError::refused)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(CommandError::failed)?;
    runtime.block_on(run(settings))
}

async fn run(settings: Settings) -> Result<Ending, CommandError> {
    let started = Instant::now();
    let (trigger, shutdown, _drain) = shutdown::channel();
    shutdown::on_signals(trigger)
        .context("cannot listen for signals")
        .map_err(CommandError::failed)?;
    let mut ui = Ui::new(settings.json);
    let server = match &settings.nats {
        Some(_) => None,
        None => Some(
            locate(settings.nats_server.as_deref())
                .await
                .map_err(CommandError::refused)?,
        ),
    };
    let scratch = tempfile::tempdir()
        .context("cannot make a scratch folder")
        .map_err(CommandError::failed)?;
    let scratch_path = scratch.path().to_owned();
    let (settings, checked) = blocking(move || {
        let checked = preflight::check(&settings, &scratch_path, &mut |_| {});
        (settings, checked)
    })
    .await?;
    let (preflight, examined) = checked.map_err(refusal)?;
    announce(&ui, &settings, &preflight, &examined);
    if settings.dry_run {
        return Ok(Ending::Complete);
    }
    let folder =
        JobFolder::open(&settings.work_dir, preflight.job, settings.force).map_err(CommandError::refused)?;
    let (notice_sender, notices) = mpsc::unbounded_channel();
    let farm = LocalFarm::open(server, &settings, &folder, notice_sender)
        .await
        .map_err(CommandError::failed)?;
    let rendering = render(
        &settings, &preflight, examined, &folder, &farm, &mut ui, notices, shutdown,
    );
    let outcome = Box::pin(rendering).await;
    let outcome = match outcome {
        Ok(Watched::Finished(finished)) => {
            finish::finish(*finished, &settings, &preflight, &folder, &farm, &mut ui, started).await
        }
        Ok(Watched::Interrupted) => {
            ui.finish();
            let path = folder.path().display();
            ui.warn(&format!(
                "stopped; what is finished is kept in `{path}`: the same command resumes"
            ));
            Ok(Ending::Interrupted)
        }
        Err(error) => Err(error),
    };
    ui.finish();
    farm.close().await;
    match &outcome {
        Ok(Ending::Complete) if !settings.keep => folder.remove().map_err(CommandError::failed)?,
        // Refused after all, and nothing of an earlier run is in it.
        Err(error) if error.ending == Ending::Refused && !folder.resumed() => {
            folder.remove().map_err(CommandError::failed)?;
        }
        _ => {}
    }
    outcome
}

fn announce(ui: &Ui, settings: &Settings, preflight: &Preflight, examined: &Examined) {
    let estimate = &preflight.estimate;
    if preflight.weights.synthetic {
        ui.line("SYNTHETIC WEIGHTS: the mouth will be moved at random");
    }
    for note in examined.notes() {
        tell(ui, &note);
    }
    ui.line(&format!("job {}: {estimate}", preflight.job));
    ui.event(&json!({
        "event": "estimate",
        "job": preflight.job.to_string(),
        "frames": estimate.frames,
        "rate": examined.rate.to_string(),
        "chunks": estimate.chunks,
        "seconds": estimate.seconds,
        "disk_bytes": estimate.disk_bytes,
        "worker_mib": estimate.worker_mib,
        "workers": settings.workers.len(),
        "synthetic_weights": preflight.weights.synthetic,
    }));
}

#[expect(
    clippy::too_many_arguments,
    reason = "everything that one render is made of comes together here"
)]
async fn render(
    settings: &Settings,
    preflight: &Preflight,
    examined: Examined,
    folder: &JobFolder,
    farm: &LocalFarm,
    ui: &mut Ui,
    notices: mpsc::UnboundedReceiver<LocalNotice>,
    mut shutdown: Shutdown,
) -> Result<Watched, CommandError> {
    let known = store::read(folder.path()).map_err(CommandError::failed)?;
    let (spec, timeline) = if let Some(spec) = known {
        ui.line(&format!("resuming in `{}`", folder.path().display()));
        let bytes = farm
            .farm
            .store
            .get_bytes(&spec.timeline)
            .await
            .map_err(CommandError::failed)?;
        let timeline: Timeline = wire::decode(&bytes).map_err(CommandError::failed)?;
        (spec, timeline)
    } else {
        tokio::select! {
            // Nothing is lost with an ingest that is broken off: the next run does it again.
            () = shutdown.reached(Phase::Draining) => return Ok(Watched::Interrupted),
            ingested = ingest(settings, preflight, examined, &farm.farm.store, ui) => ingested?,
        }
    };
    // Too large for this future's own frame.
    Box::pin(watch::run_job(
        settings, preflight, folder, farm, ui, notices, shutdown, spec, timeline,
    ))
    .await
}

/// A sentence that the operator should know of the inputs.
fn tell(ui: &Ui, note: &str) {
    ui.line(note);
    ui.event(&json!({ "event": "note", "text": note }));
}

/// Cuts the video and stores segments, speech and timeline.
async fn ingest(
    settings: &Settings,
    preflight: &Preflight,
    examined: Examined,
    store: &Store,
    ui: &mut Ui,
) -> Result<(JobSpec, Timeline), CommandError> {
    ui.begin("ingest", examined.table.sources, "source frames");
    let told = examined.notes();
    let (sender, mut progress) = mpsc::unbounded_channel();
    let mut sink = StoreSink {
        store: store.clone(),
        runtime: Handle::current(),
    };
    let mut work = tokio::task::spawn_blocking(move || {
        examined.store(&mut sink, &mut |step: IngestProgress| {
            let _nobody_watches = sender.send(step);
        })
    });
    let ingested: Ingested = loop {
        tokio::select! {
            Some(step) = progress.recv() => {
                if step.stage == IngestStage::Cut {
                    ui.advance(step.done, "cutting");
                }
            }
            done = &mut work => break done.context("ingest broke off").map_err(CommandError::failed)?
                .map_err(|error| if error.is_bad_input() { CommandError::refused(error) } else { CommandError::failed(error) })?,
        }
    };
    ui.finish();
    // The others were told before the work began.
    for note in ingested.notes.iter().filter(|note| !told.contains(note)) {
        tell(ui, note);
    }
    let bytes = wire::encode(&ingested.timeline).map_err(CommandError::failed)?;
    let timeline = store.put_bytes(bytes).await.map_err(CommandError::failed)?;
    ui.line(&format!(
        "ingested {} source frames in {} segments, speech in {} windows",
        ingested.source.frames,
        ingested.timeline.segments.len(),
        ingested.timeline.audio.len()
    ));
    ui.event(&json!({
        "event": "ingested",
        "source_frames": ingested.source.frames,
        "segments": ingested.timeline.segments.len(),
        "frames": ingested.frames,
    }));
    let spec = preflight.manifest(settings, &ingested, timeline);
    Ok((spec, ingested.timeline))
}

/// Lets blocking code put blobs into the store.
struct StoreSink {
    store: Store,
    runtime: Handle,
}

impl BlobSink for StoreSink {
    fn put_file(&mut self, path: &Path) -> io::Result<BlobRef> {
        self.runtime.block_on(self.store.put_file(path)).map_err(io_error)
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<BlobRef> {
        self.runtime
            .block_on(self.store.put_bytes(bytes.to_vec()))
            .map_err(io_error)
    }
}

fn io_error(error: BlobError) -> io::Error {
    io::Error::other(error)
}

fn refusal(error: PreflightError) -> CommandError {
    if error.is_refusal() {
        CommandError::refused(error)
    } else {
        CommandError::failed(error)
    }
}

/// Runs blocking work on a thread of its own; a panic there is passed on as an error.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    tokio::task::spawn_blocking(work)
        .await
        .context("a task broke off")
        .map_err(CommandError::failed)
}
