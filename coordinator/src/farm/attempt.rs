//! One job's way through the dispatcher, in a task of its own: it reads what was stored of the job, follows the
//! cut of its video, hands it to the dispatcher, and reports what happens to it.

use std::path::Path;
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::events::Follower;
use latentfarm_common::nats::{Connection, subjects};
use latentfarm_common::wire;
use latentfarm_common::wire::job::{CutRecord, JobSpec, Timeline};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::messages::{JobOrder, JobOutcome, JobPhase};
use super::share;
use super::watchers::Watchers;
use crate::dispatch::{
    Admission, Ending, Farm, JobEnd, JobEvent, JobSettings, Order, PlannedJob, WaitReason,
};
use crate::job::manifest::{self, ManifestError};
use crate::job::segments::VideoNews;

/// How long a job that could not be dispatched waits before it is its turn again.
const PAUSE: Duration = Duration::from_secs(5);

/// What happens to a job on the dispatcher.
#[derive(Debug)]
pub(super) enum Report {
    /// So many frames are rendered.
    Progress { frames_done: u64 },
    /// The job waits for this, or no longer waits.
    Wait(Option<String>),
    /// The job has left the dispatcher.
    Left(Departure),
}

/// How a job has left the dispatcher.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) phase: JobPhase,
    /// Why, if the job is not complete.
    pub(super) reason: Option<String>,
    /// How it ended there, if it did.
    pub(super) outcome: Option<Box<JobOutcome>>,
}

/// Why a job did not come to the dispatcher.
#[derive(Debug)]
struct NotBegun {
    reason: String,
    /// Whether that may be otherwise in a moment.
    may_pass: bool,
}

/// A report with the job and the number of its submission.
pub(super) type Reported = (JobId, u64, Report);

/// A submission of a job that is brought to the dispatcher.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) farm: Farm,
    pub(super) job: JobId,
    pub(super) number: u64,
    pub(super) order: JobOrder,
    pub(super) priority: u8,
    /// How an operator starts a worker, in one clause.
    pub(super) start_worker: String,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) reports: mpsc::UnboundedSender<Reported>,
    pub(super) watchers: Watchers,
    /// Other jobs with the same video.
    pub(super) same_video: Vec<JobId>,
}

impl Attempt {
    /// Runs until the job has left the dispatcher. `folder` is for the job's journal; `news` and `video` are
    /// the two ends of the channel for news of its video.
    pub(super) async fn run(
        self,
        folder: &Path,
        news: mpsc::UnboundedSender<VideoNews>,
        video: mpsc::UnboundedReceiver<VideoNews>,
    ) {
        let departure = match self.dispatch(folder, news, video).await {
            Ok(end) => departure(end),
            Err(NotBegun {
                reason,
                may_pass: false,
            }) => Departure {
                phase: JobPhase::Failed,
                reason: Some(reason),
                outcome: None,
            },
            Err(NotBegun { reason, .. }) => {
                tracing::warn!(job = %self.job, reason, "a job cannot be dispatched yet, trying again");
                tokio::time::sleep(PAUSE).await;
                Departure::AGAIN
            }
        };
        self.report(Report::Left(departure));
    }

    fn report(&self, report: Report) {
        // The receiver is gone when the coordinator ends.
        let _nobody = self.reports.send((self.job, self.number, report));
    }

    async fn dispatch(
        &self,
        folder: &Path,
        news: mpsc::UnboundedSender<VideoNews>,
        video: mpsc::UnboundedReceiver<VideoNews>,
    ) -> Result<Option<JobEnd>, NotBegun> {
        let (spec, timeline) = self.read().await?;
        match share::analyses(&self.farm, &spec, &self.same_video).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(job = %self.job, count, "the farm has analyses of the video already"),
            Err(error) => {
                tracing::debug!(job = %self.job, error = one_line(&error), "the video is analysed afresh");
            }
        }
        let (observer, mut events) = mpsc::unbounded_channel();
        let (sender, mut ended) = oneshot::channel();
        let admission = Admission {
            planned: PlannedJob {
                spec,
                timeline,
                video,
            },
            settings: self.settings(folder),
            observer,
            ended: sender,
        };
        // The dispatcher may be ending.
        let _not_taken = self.orders.send(Order::Admit(Box::new(admission)));
        let followed = follow_video(&self.farm.connection, self.job, &news);
        tokio::pin!(followed);
        let mut is_following = true;
        loop {
            tokio::select! {
                biased;
                Some(event) = events.recv() => self.on_event(&event).await,
                end = &mut ended => return match end {
                    Ok(Ok(end)) => Ok(Some(end)),
                    Ok(Err(error)) => Err(NotBegun {
                        reason: one_line(&error),
                        may_pass: !error.is_about_job(),
                    }),
                    // The dispatcher has ended, and the next coordinator goes on with the job.
                    Err(_) => Ok(None),
                },
                () = &mut followed, if is_following => is_following = false,
            }
        }
    }

    async fn on_event(&self, event: &JobEvent) {
        if is_news(event)
            && self.farm.connection.is_up()
            && self.watchers.is_watched(self.job, Instant::now())
        {
            self.publish(event).await;
        }
        match event {
            JobEvent::Progress(progress) => self.report(Report::Progress {
                frames_done: progress.render.frames_done,
            }),
            JobEvent::Waiting { .. } => self.report(Report::Wait(Some(event.to_string()))),
            JobEvent::WaitOver { .. } => self.report(Report::Wait(None)),
            _ => {}
        }
    }

    /// Publishes an event for those who watch the job.
    async fn publish(&self, event: &JobEvent) {
        let subject = subjects::news_of_job(self.job);
        let published = match wire::encode(event) {
            Ok(payload) => {
                let client = &self.farm.connection.client;
                client
                    .publish(subject, payload.into())
                    .await
                    .map_err(async_nats::Error::from)
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = published {
            tracing::debug!(job = %self.job, error = one_line(error.as_ref()), "an event cannot be published");
        }
    }

    /// Reads what the submitter has stored of the job.
    async fn read(&self) -> Result<(JobSpec, Timeline), NotBegun> {
        let connection = &self.farm.connection;
        let spec = manifest::read_from_farm(connection, self.job).await;
        let spec = spec.map_err(|error| NotBegun {
            reason: one_line(&error),
            may_pass: matches!(error, ManifestError::Bucket(_)),
        })?;
        let lost = |reason: String| NotBegun {
            reason: format!("{reason}: submit the job again"),
            may_pass: false,
        };
        let spec = spec.ok_or_else(|| lost("the farm has no manifest of the job".to_owned()))?;
        let bytes = self.farm.store.get_bytes(&spec.timeline).await;
        let bytes = bytes.map_err(|error| NotBegun {
            may_pass: error.may_pass(),
            ..lost(one_line(&error))
        })?;
        let timeline = wire::decode(&bytes).map_err(|error| lost(one_line(&error)))?;
        Ok((spec, timeline))
    }

    fn settings(&self, folder: &Path) -> JobSettings {
        let order = &self.order;
        JobSettings {
            job_dir: folder.to_owned(),
            priority: self.priority,
            needs: order.needs,
            cpu_fallback: order.cpu_fallback,
            one_kind: order.one_kind,
            needed_tags: order.needed_tags.clone(),
            unplaceable_wait: order.unplaceable_wait,
            start_worker: self.start_worker.clone(),
            allow_no_face: order.allow_no_face,
        }
    }
}

/// Whether an event is for those who watch the job. Heartbeats have a subject of their own, and each process reports
/// its own link to the server.
fn is_news(event: &JobEvent) -> bool {
    let is_link = |kind: &str| kind == WaitReason::SERVER;
    match event {
        JobEvent::Heartbeat(_) | JobEvent::ServerLost { .. } | JobEvent::ServerBack { .. } => false,
        JobEvent::Waiting { reason, .. } => !is_link(reason.kind()),
        JobEvent::WaitOver { kind, .. } => !is_link(kind),
        _ => true,
    }
}

/// Passes on the segments of a job's video as its submitter stores them, until the last one.
async fn follow_video(connection: &Connection, job: JobId, news: &mpsc::UnboundedSender<VideoNews>) {
    let mut follower = match connection.outlast(|| Follower::segments(connection, job)).await {
        Ok(follower) => follower,
        Err(error) => {
            let reason = one_line(&error);
            let _ended = news.send(VideoNews::Failed { reason });
            return;
        }
    };
    loop {
        let message = follower.next().await;
        let (event, is_last) = match wire::decode::<CutRecord>(&message.payload) {
            Ok(record) => {
                let is_last = matches!(record, CutRecord::End);
                (VideoNews::Recorded(record), is_last)
            }
            Err(error) => {
                let reason = one_line(&error);
                (VideoNews::Failed { reason }, true)
            }
        };
        if news.send(event).is_err() || is_last {
            return;
        }
    }
}

impl Departure {
    /// The job waits for its turn again.
    const AGAIN: Self = Self {
        phase: JobPhase::Queued,
        reason: None,
        outcome: None,
    };
}

/// Returns how a job has left the dispatcher. A job whose end was not reported is gone on with by the next
/// coordinator.
fn departure(end: Option<JobEnd>) -> Departure {
    let Some(JobEnd { ending, report, .. }) = end else {
        return Departure::AGAIN;
    };
    let (phase, reason) = match &ending {
        Ending::Complete => (JobPhase::Complete, None),
        Ending::Incomplete { quarantined } | Ending::Failed { quarantined } => {
            let cause = quarantined.first().map_or("", |chunk| chunk.reason.as_str());
            let reason = format!("{} chunks were given up: {cause}", quarantined.len());
            (JobPhase::Incomplete, Some(reason))
        }
        Ending::NoWorker { reason } => (JobPhase::Incomplete, Some(reason.clone())),
        Ending::NoVideo { reason } => {
            let reason = format!("the video cannot be cut to its end: {reason}");
            (JobPhase::Failed, Some(reason))
        }
        Ending::NoFace => {
            let reason =
                "no face was found in the whole video: submit it with --allow-no-face to get it unchanged";
            (JobPhase::Failed, Some(reason.to_owned()))
        }
        Ending::Cancelled => (JobPhase::Cancelled, None),
        Ending::Interrupted { .. } => return Departure::AGAIN,
    };
    Departure {
        phase,
        reason,
        outcome: Some(Box::new(JobOutcome { ending, report })),
    }
}
