//! Follows a job of the farm until it is over, and passes on what happens to it as the events of a render.

use std::time::Duration;

use async_nats::Subscriber;
use futures::{FutureExt as _, StreamExt as _};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::subjects;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::waiting::{WaitReport, WaitReporter};
use latentfarm_common::wire;
use tokio::time::{Instant, sleep};

use super::client::{ClientError, FarmClient};
use super::messages::{JobPhase, JobView};
use crate::dispatch::{JobEvent, OutageWatch, WaitReason};
use crate::render::{Observer, RenderEvent};

/// How often the coordinator is asked how the job stands.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Follows a job until it is over. Returns how it stands then; `None` if a signal came first. While no coordinator
/// answers, which may be started again, the job is followed on.
///
/// # Errors
/// If the coordinator refuses to tell of the job, for example because it was deleted.
pub async fn watch(
    connection: &Connection,
    view: JobView,
    observer: &Observer,
    mut shutdown: Shutdown,
) -> Result<Option<JobView>, ClientError> {
    let client = FarmClient::new(connection);
    let mut watch = Watch::begin(connection, view, observer).await?;
    loop {
        let job = watch.view.job;
        let asking = async {
            sleep(ASK_EVERY).await;
            if connection.is_up() {
                client.watch(job).await
            } else {
                let url = connection.url().to_owned();
                Err(ClientError::NoAnswer { url })
            }
        };
        tokio::pin!(asking);
        let answer = loop {
            tokio::select! {
                answer = &mut asking => break answer,
                Some(message) = watch.news.next() => watch.show(&message.payload),
                () = shutdown.reached(Phase::Draining) => return Ok(None),
            }
        };
        // What was published before the answer was sent has come before it.
        while let Some(Some(message)) = watch.news.next().now_or_never() {
            watch.show(&message.payload);
        }
        watch.on_answer(answer)?;
        if watch.view.record.phase.is_over() {
            return Ok(Some(watch.view));
        }
    }
}

struct Watch<'a> {
    connection: &'a Connection,
    observer: &'a Observer,
    news: Subscriber,
    /// How the job stood when the coordinator answered last.
    view: JobView,
    outages: OutageWatch,
    waits: WaitReporter<&'static str>,
}

impl<'a> Watch<'a> {
    async fn begin(
        connection: &'a Connection,
        view: JobView,
        observer: &'a Observer,
    ) -> Result<Self, ClientError> {
        let news = connection.client.subscribe(subjects::news_of_job(view.job)).await;
        Ok(Self {
            connection,
            observer,
            news: news.map_err(ClientError::Subscribe)?,
            view,
            outages: OutageWatch::default(),
            waits: WaitReporter::default(),
        })
    }

    fn send(&self, event: JobEvent) {
        self.observer.send(RenderEvent::Job(Box::new(event)));
    }

    /// Shows an event that the coordinator has published. One that cannot be read is of another release.
    fn show(&self, payload: &[u8]) {
        if let Ok(event) = wire::decode(payload) {
            self.send(event);
        }
    }

    /// Takes the coordinator's answer, and reports what this process itself waits for.
    fn on_answer(&mut self, answer: Result<JobView, ClientError>) -> Result<(), ClientError> {
        let now = Instant::now();
        let outage = self.connection.outage();
        let url = self.connection.url();
        if let Some(event) = self.outages.observe(url, outage.as_ref(), now) {
            self.send(event);
        }
        let url = url.to_owned();
        let waits_for = match answer {
            Ok(view) => {
                self.view = view;
                (self.view.record.phase == JobPhase::Queued).then_some(WaitReason::Turn)
            }
            Err(error) if error.may_pass() => Some(match outage {
                Some(outage) => WaitReason::Server {
                    url,
                    error: outage.last_error,
                },
                None => WaitReason::Coordinator { url },
            }),
            Err(error) => return Err(error),
        };
        let reported = self.waits.observe(waits_for.as_ref().map(WaitReason::kind), now);
        match (reported, waits_for) {
            (Some(WaitReport::GoesOn(waited)), Some(reason)) => self.send(JobEvent::Waiting {
                mend: reason.mend("start one with `latentfarm-worker run`"),
                reason,
                waited,
                left: None,
            }),
            (Some(WaitReport::Over { kind, waited }), _) => self.send(JobEvent::WaitOver {
                kind: kind.to_owned(),
                waited,
            }),
            _ => {}
        }
        Ok(())
    }
}
