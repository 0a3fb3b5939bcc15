//! One job's way through the dispatcher, in a task of its own: it reads what was stored of the job, follows the
//! cut of its video, hands it to the dispatcher, and reports what happens to it.

use std::path::Path;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::events::Follower;
use latentfarm_common::wire;
use latentfarm_common::wire::job::{CutRecord, JobSpec, Timeline};
use tokio::sync::{mpsc, oneshot};

use super::messages::{JobOrder, JobPhase};
use crate::dispatch::{
    Admission, DispatchError, Ending, Farm, JobEnd, JobEvent, JobSettings, Order, PlannedJob,
};
use crate::job::manifest;
use crate::job::segments::VideoNews;

/// What happens to a job on the dispatcher.
#[derive(Debug)]
pub(super) enum Report {
    /// So many frames are rendered.
    Progress { frames_done: u64 },
    /// The job waits for this, or no longer waits.
    Wait(Option<String>),
    /// The job has left the dispatcher, in this phase and for this reason.
    Left(JobPhase, Option<String>),
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
}

impl Attempt {
    /// Runs until the job has left the dispatcher. `folder` is for the job's journal; `news` and `video` are
    /// the two ends of what is told of its video.
    pub(super) async fn run(
        self,
        folder: &Path,
        news: mpsc::UnboundedSender<VideoNews>,
        video: mpsc::UnboundedReceiver<VideoNews>,
    ) {
        let (phase, reason) = match self.dispatch(folder, news, video).await {
            Ok(end) => ended(end),
            Err(reason) => (JobPhase::Failed, Some(reason)),
        };
        self.report(Report::Left(phase, reason));
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
    ) -> Result<Option<Result<JobEnd, DispatchError>>, String> {
        let (spec, timeline) = self.read().await?;
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
                Some(event) = events.recv() => self.on_event(&event),
                end = &mut ended => return Ok(end.ok()),
                () = &mut followed, if is_following => is_following = false,
            }
        }
    }

    fn on_event(&self, event: &JobEvent) {
        match event {
            JobEvent::Progress(progress) => self.report(Report::Progress {
                frames_done: progress.render.frames_done,
            }),
            JobEvent::Waiting { .. } => self.report(Report::Wait(Some(event.to_string()))),
            JobEvent::WaitOver { .. } => self.report(Report::Wait(None)),
            _ => {}
        }
    }

    /// Reads what the submitter has stored of the job.
    async fn read(&self) -> Result<(JobSpec, Timeline), String> {
        let connection = &self.farm.connection;
        let spec = connection
            .outlast(|| manifest::read_from_farm(connection, self.job))
            .await;
        let spec = spec.map_err(|error| one_line(&error))?;
        let spec = spec.ok_or_else(|| "the farm has no manifest of the job: submit it again".to_owned())?;
        let bytes = connection
            .outlast(|| self.farm.store.get_bytes(&spec.timeline))
            .await;
        let bytes = bytes.map_err(|error| format!("{}: submit the job again", one_line(&error)))?;
        let timeline = wire::decode(&bytes).map_err(|error| one_line(&error))?;
        Ok((spec, timeline))
    }

    fn settings(&self, folder: &Path) -> JobSettings {
        let order = &self.order;
        JobSettings {
            job_dir: folder.to_owned(),
            priority: self.priority,
            needs: order.needs,
            cpu_fallback: order.cpu_fallback,
            unplaceable_wait: order.unplaceable_wait,
            start_worker: self.start_worker.clone(),
            allow_no_face: order.allow_no_face,
        }
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
        let (told, is_last) = match wire::decode::<CutRecord>(&message.payload) {
            Ok(record) => {
                let is_last = matches!(record, CutRecord::End);
                (VideoNews::Recorded(record), is_last)
            }
            Err(error) => {
                let reason = one_line(&error);
                (VideoNews::Failed { reason }, true)
            }
        };
        if news.send(told).is_err() || is_last {
            return;
        }
    }
}

/// Returns the phase of a job that has left the dispatcher, and why. A job whose end was not reported is gone
/// on with by the next coordinator.
fn ended(end: Option<Result<JobEnd, DispatchError>>) -> (JobPhase, Option<String>) {
    let end = match end {
        None => return (JobPhase::Queued, None),
        Some(Err(error)) => return (JobPhase::Failed, Some(one_line(&error))),
        Some(Ok(end)) => end.ending,
    };
    match end {
        Ending::Complete => (JobPhase::Complete, None),
        Ending::Incomplete { quarantined } | Ending::Failed { quarantined } => {
            let cause = quarantined.first().map_or("", |chunk| chunk.reason.as_str());
            let reason = format!("{} chunks were given up: {cause}", quarantined.len());
            (JobPhase::Incomplete, Some(reason))
        }
        Ending::NoWorker { reason } => (JobPhase::Incomplete, Some(reason)),
        Ending::NoVideo { reason } => (
            JobPhase::Failed,
            Some(format!("the video cannot be cut to its end: {reason}")),
        ),
        Ending::NoFace => (
            JobPhase::Failed,
            Some(
                "no face was found in the whole video: submit it with --allow-no-face to get it unchanged"
                    .to_owned(),
            ),
        ),
        Ending::Cancelled => (JobPhase::Cancelled, None),
        Ending::Interrupted { .. } => (JobPhase::Queued, None),
    }
}
