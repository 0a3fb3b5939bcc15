//! Hands a job to the coordinator of a farm: stores its sound, speech and timeline, submits it, and cuts its
//! video while the farm renders what was cut already. The same job may be submitted again at any time; what is
//! stored of it is not stored again.

use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::client::{ClientError, FarmClient};
use super::messages::{FarmRequest, JobOrder, JobPhase, JobView, Submission};
use crate::dispatch::Farm;
use crate::ingest::{ExaminedInputs, SourceVideo};
use crate::job::manifest;
use crate::render::{Observer, Preflight, RenderError, RenderEvent, RenderJob, StoreSink, VideoCut};

/// Why a job could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Render(#[from] RenderError),
}

impl SubmitError {
    /// Whether the inputs, the options or the request were refused.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Client(error) => error.is_refusal(),
            Self::Render(error) => error.is_refusal(),
        }
    }
}

/// What the submitter chooses besides what the output depends on.
#[derive(Clone, Debug)]
pub struct SubmitOptions {
    pub name: String,
    pub submitter: String,
    pub priority: u8,
    /// The job begins only when this one is complete.
    pub after: Option<JobId>,
}

/// Submits a job to the farm, and waits until its video is cut. Returns how the job stands then; `None` if a
/// signal came first: the same call goes on.
pub async fn submit(
    job: RenderJob,
    farm: &Farm,
    options: SubmitOptions,
    observer: &Observer,
    shutdown: Shutdown,
) -> Result<Option<JobView>, SubmitError> {
    let client = FarmClient::new(&farm.connection);
    let (preflight, examined) = job.into_parts();
    let id = preflight.job;
    let known = client.announce(id, preflight.estimate.store_bytes).await?;
    if let Some(view) = known
        .as_ref()
        .filter(|view| view.record.phase == JobPhase::Complete)
    {
        return Ok(Some(view.clone()));
    }
    let submitting = async {
        let (spec, timeline, video) = match known {
            Some(_) => stored(farm, &preflight, examined).await?,
            None => {
                store(
                    farm,
                    &client,
                    &preflight,
                    options,
                    examined,
                    observer,
                    shutdown.clone(),
                )
                .await?
            }
        };
        cut(farm, &client, spec, &timeline, video, observer, shutdown.clone()).await
    };
    let mut stopping = shutdown.clone();
    tokio::select! {
        submitted = submitting => submitted?,
        () = stopping.reached(Phase::Draining) => return Ok(None),
    }
    if !shutdown.is_running() {
        return Ok(None);
    }
    Ok(Some(client.show(id).await?))
}

/// Reads what an earlier submission of the job has stored.
async fn stored(
    farm: &Farm,
    preflight: &Preflight,
    examined: ExaminedInputs,
) -> Result<(JobSpec, Timeline, SourceVideo), SubmitError> {
    let found = manifest::read_from_farm(&farm.connection, preflight.job).await;
    let spec = found
        .map_err(RenderError::from)?
        .ok_or(ClientError::NoSuchJob { job: preflight.job })?;
    let bytes = farm
        .store
        .get_bytes(&spec.timeline)
        .await
        .map_err(RenderError::from)?;
    let timeline = wire::decode(&bytes).map_err(RenderError::from)?;
    Ok((spec, timeline, examined.into_video()))
}

/// Stores sound, speech and timeline, and submits the job.
async fn store(
    farm: &Farm,
    client: &FarmClient,
    preflight: &Preflight,
    options: SubmitOptions,
    examined: ExaminedInputs,
    observer: &Observer,
    shutdown: Shutdown,
) -> Result<(JobSpec, Timeline, SourceVideo), SubmitError> {
    observer.send(RenderEvent::IngestBegins {
        source_frames: examined.table.sources,
    });
    let (mut sink, _stop) = StoreSink::new(farm, shutdown);
    let stored = spawn_blocking(move || examined.store(&mut sink)).await;
    let (ingested, video) = stored.map_err(RenderError::from)?.map_err(RenderError::from)?;
    let bytes = wire::encode(&ingested.timeline).map_err(RenderError::from)?;
    let timeline = farm.store.put_bytes(bytes).await.map_err(RenderError::from)?;
    let spec = preflight.manifest(&ingested, timeline);
    let settings = &preflight.settings;
    let order = JobOrder {
        name: options.name,
        submitter: options.submitter,
        priority: options.priority,
        needs: preflight.needs,
        cpu_fallback: settings.cpu_fallback,
        unplaceable_wait: settings.unplaceable_wait,
        allow_no_face: settings.allow_no_face,
        keeps_tail: settings.ingest.keep_tail,
        extension: settings.ingest.container.extension().to_owned(),
        after: options.after,
    };
    let submission = Submission {
        spec: spec.clone(),
        order,
    };
    client.job(&FarmRequest::Submit(Box::new(submission))).await?;
    Ok((spec, ingested.timeline, video))
}

/// Cuts the video to its end. The coordinator reads the records of the segments as they are stored, and is told
/// of a video that cannot be cut.
async fn cut(
    farm: &Farm,
    client: &FarmClient,
    spec: JobSpec,
    timeline: &Timeline,
    video: SourceVideo,
    observer: &Observer,
    shutdown: Shutdown,
) -> Result<(), SubmitError> {
    let id = spec.id;
    let (news, _unread) = mpsc::unbounded_channel();
    let cut = VideoCut {
        farm: farm.clone(),
        job: spec,
        audio_windows: timeline.audio.len(),
        observer: observer.clone(),
        news,
    };
    let Err(error) = cut.run(video, shutdown).await else {
        return Ok(());
    };
    if error.is_refusal() {
        let reason = one_line(&error);
        client.job(&FarmRequest::VideoFailed { job: id, reason }).await?;
    }
    Err(error.into())
}
