//! Hands a job to the coordinator of a farm: stores its sound, speech and timeline, submits it, and cuts its
//! video while the farm renders what was cut already. The same job may be submitted again at any time; what is
//! stored of it is not stored again.

use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::job::JobSpec;
use tokio::sync::mpsc;

use super::client::{Announced, ClientError, FarmClient};
use super::messages::{FarmRequest, JobOrder, JobPhase, JobView, MAX_TEXT_BYTES, Submission};
use super::share;
use super::watch::watch;
use crate::dispatch::Farm;
use crate::ingest::ExaminedInputs;
use crate::job::manifest;
use crate::render::{Observer, Preflight, RenderError, RenderEvent, RenderJob, StoredInputs, VideoCut};

/// Why a job could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(
        "the farm has job {job} already and gives it to {}, not to {}: cancel it before it is submitted with others",
        workers_with(known),
        workers_with(wanted)
    )]
    OtherTags { job: JobId, known: Tags, wanted: Tags },
}

/// The workers that have some tags, for messages.
fn workers_with(tags: &Tags) -> String {
    if tags.is_empty() {
        "all workers".to_owned()
    } else {
        format!("workers with the tags {tags}")
    }
}

impl SubmitError {
    /// Whether the farm's store has no room for the job now.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Client(ClientError::Full { .. }))
    }

    /// Whether the inputs, the options or the request were refused.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Client(error) => error.is_refusal(),
            Self::Render(error) => error.is_refusal(),
            Self::OtherTags { .. } => true,
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
    /// The time in which the job is wanted.
    pub deadline: Option<Duration>,
    /// The file below the coordinator's output folder to which it writes the output.
    pub deliver: Option<String>,
}

/// What follows when the farm has a job and its video is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The submitter has nothing more to do.
    Return,
    /// The events of the job are passed on, from the beginning, until it is over.
    Watch,
}

/// Submits a job to the farm, waits until its video is cut, and watches it if that is wanted. Returns how the job
/// stands then; `None` if a signal came first: the same call goes on.
pub async fn submit(
    job: RenderJob,
    farm: &Farm,
    options: SubmitOptions,
    then: Then,
    observer: &Observer,
    mut shutdown: Shutdown,
) -> Result<Option<JobView>, SubmitError> {
    let client = FarmClient::new(&farm.connection);
    let submitter = Submitter {
        farm,
        client: &client,
        observer,
        shutdown: shutdown.clone(),
    };
    let stop = shutdown.clone();
    // The future is large.
    let submitting = Box::pin(async {
        let (preflight, mut examined) = job.into_parts();
        examined.share_video();
        let (view, inputs) = match submitter.hand_over(preflight, examined, options).await? {
            HandedOver::Complete(view) => return Ok(Some(*view)),
            HandedOver::Open(view, inputs) => (view, inputs),
        };
        let id = view.job;
        let cutting = submitter.cut(*inputs);
        if then == Then::Return {
            cutting.await?;
            return if stop.is_running() {
                Ok(Some(client.show(id).await?))
            } else {
                Ok(None)
            };
        }
        observer.send(RenderEvent::DispatchBegins {
            frames: view.record.frames,
        });
        let watching = watch(&farm.connection, *view, observer, stop);
        tokio::pin!(cutting, watching);
        tokio::select! {
            // A job that is over needs no more of its video.
            watched = &mut watching => Ok(watched?),
            cut = &mut cutting => {
                cut?;
                Ok(watching.await?)
            }
        }
    });
    tokio::select! {
        // What is stored ends with an error of its own when it is interrupted.
        biased;
        () = shutdown.reached(Phase::Draining) => Ok(None),
        outcome = submitting => outcome,
    }
}

/// A job that the farm has.
enum HandedOver {
    /// It is complete.
    Complete(Box<JobView>),
    /// Its video may still have to be cut.
    Open(Box<JobView>, Box<StoredInputs>),
}

struct Submitter<'a> {
    farm: &'a Farm,
    client: &'a FarmClient,
    observer: &'a Observer,
    shutdown: Shutdown,
}

impl Submitter<'_> {
    /// Stores the inputs and submits the job, unless the farm has it.
    async fn hand_over(
        &self,
        preflight: Preflight,
        examined: ExaminedInputs,
        options: SubmitOptions,
    ) -> Result<HandedOver, SubmitError> {
        let id = preflight.job;
        let wanted = preflight.settings.needed_tags.clone();
        let announced = self
            .client
            .announce(id, preflight.estimate.store_bytes, examined.video_digest);
        let (view, inputs) = match announced.await? {
            Announced::Known(view) if view.record.phase == JobPhase::Complete => {
                return Ok(HandedOver::Complete(view));
            }
            Announced::Known(view) if view.needed_tags != wanted => {
                let (job, known) = (id, view.needed_tags);
                return Err(SubmitError::OtherTags { job, known, wanted });
            }
            Announced::Known(view) => {
                let found = manifest::read_from_farm(&self.farm.connection, id).await;
                let spec = found
                    .map_err(RenderError::from)?
                    .ok_or(ClientError::NoSuchJob { job: id })?;
                (*view, StoredInputs::read(self.farm, spec, examined).await?)
            }
            Announced::New { same_video } => {
                let (observer, shutdown) = (self.observer, self.shutdown.clone());
                let stored = StoredInputs::store(self.farm, &preflight, examined, observer, shutdown);
                let inputs = stored.await?;
                let submission = Submission {
                    spec: inputs.spec.clone(),
                    order: order(&preflight, options, inputs.spec.video_digest),
                };
                let request = FarmRequest::Submit(Box::new(submission));
                let view = self.client.job(&request).await?;
                self.take_over_segments(&inputs.spec, &same_video).await;
                (view, inputs)
            }
        };
        Ok(HandedOver::Open(Box::new(view), Box::new(inputs)))
    }

    /// Takes over the segments of another job's video, so that they need not be cut and stored again.
    async fn take_over_segments(&self, spec: &JobSpec, same_video: &[JobId]) {
        match share::segments(self.farm, spec, same_video).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(job = %spec.id, count, "the farm has segments of the video already"),
            Err(error) => tracing::debug!(error = one_line(&error), "the video is cut afresh"),
        }
    }

    /// Cuts the video to its end. The coordinator reads the records of the segments as they are stored, and learns
    /// of a video that cannot be cut.
    async fn cut(&self, inputs: StoredInputs) -> Result<(), SubmitError> {
        let id = inputs.spec.id;
        let (news, _unread) = mpsc::unbounded_channel();
        let cut = VideoCut {
            farm: self.farm.clone(),
            job: inputs.spec,
            audio_windows: inputs.timeline.audio.len(),
            observer: self.observer.clone(),
            news,
        };
        let Err(error) = cut.run(inputs.video, self.shutdown.clone()).await else {
            return Ok(());
        };
        if error.is_refusal() {
            let reason = one_line(&error);
            let request = FarmRequest::VideoFailed { job: id, reason };
            self.client.job(&request).await?;
        }
        Err(error.into())
    }
}

/// Returns how the job is to be dispatched.
fn order(preflight: &Preflight, options: SubmitOptions, video: Digest) -> JobOrder {
    let settings = &preflight.settings;
    let weights = settings.weights.display().to_string();
    JobOrder {
        name: options.name,
        submitter: options.submitter,
        priority: options.priority,
        needs: preflight.needs,
        cpu_fallback: settings.cpu_fallback,
        one_kind: settings.one_kind,
        needed_tags: settings.needed_tags.clone(),
        unplaceable_wait: settings.unplaceable_wait,
        allow_no_face: settings.allow_no_face,
        keeps_tail: settings.ingest.keep_tail,
        extension: settings.ingest.container.extension().to_owned(),
        after: options.after,
        deadline: options.deadline,
        deliver: options.deliver,
        input_bytes: preflight
            .estimate
            .store_bytes
            .saturating_sub(preflight.estimate.result_bytes),
        result_bytes: preflight.estimate.result_bytes,
        video,
        weights: if weights.len() <= MAX_TEXT_BYTES {
            weights
        } else {
            "DIR".to_owned()
        },
    }
}
