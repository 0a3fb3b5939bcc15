//! The jobs of a standing coordinator: it answers the operators' requests, brings jobs to the dispatcher when it
//! is their turn, and records what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::connect::SEED_VARIABLE;
use latentfarm_common::nats::lease::Lease;
use latentfarm_common::nats::storage;
use latentfarm_common::nats::subjects::{COORDINATOR_INBOX, FARM_REQUESTS, OPERATOR_INBOX};
use latentfarm_common::wire;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::attempt::{Attempt, Departure, Report, Reported};
use super::error::ServeError;
use super::messages::{Control, FarmReply, FarmRequest, JobPhase, MAX_TEXT_BYTES, Submission};
use super::records::{RecordError, RecordStore};
use super::registry::{Refusal, Registry};
use super::watchers::Watchers;
use crate::dispatch::{Farm, Order};
use crate::job::manifest;
use crate::job::segments::VideoNews;
use crate::render::NoStorage;

/// How often records that have changed are stored.
const TICK: Duration = Duration::from_secs(1);

/// The jobs of the farm, and the ways to its dispatcher and its bucket.
pub(super) struct Coordinator<'a> {
    farm: &'a Farm,
    lease: &'a Lease,
    dir: PathBuf,
    registry: Registry,
    records: RecordStore,
    /// Jobs whose records have changed since they were stored.
    unsaved: BTreeSet<JobId>,
    orders: mpsc::UnboundedSender<Order>,
    attempts: JoinSet<()>,
    /// Where news of the video of each job on the dispatcher are sent.
    videos: BTreeMap<JobId, mpsc::UnboundedSender<VideoNews>>,
    /// Jobs that have left the dispatcher, with the numbers of their submissions, whose figures are not stored yet.
    departures: Vec<(JobId, u64, Departure)>,
    watchers: Watchers,
    reports: mpsc::UnboundedReceiver<Reported>,
    reporter: mpsc::UnboundedSender<Reported>,
}

impl<'a> Coordinator<'a> {
    pub(super) async fn open(
        farm: &'a Farm,
        lease: &'a Lease,
        dir: PathBuf,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Result<Self, ServeError> {
        let mut records = RecordStore::open(&farm.connection).await?;
        let mut registry = Registry::default();
        for (job, order, record) in records.load().await? {
            registry.restore(job, order, record);
        }
        let (reporter, reports) = mpsc::unbounded_channel();
        Ok(Self {
            farm,
            lease,
            dir,
            registry,
            records,
            unsaved: BTreeSet::new(),
            orders,
            attempts: JoinSet::new(),
            videos: BTreeMap::new(),
            departures: Vec::new(),
            watchers: Watchers::default(),
            reports,
            reporter,
        })
    }

    /// Answers requests and brings jobs to the dispatcher, without end.
    pub(super) async fn run(&mut self, ready: impl FnOnce(usize)) -> Result<(), ServeError> {
        let requests = self.farm.connection.client.subscribe(FARM_REQUESTS).await;
        let mut requests = requests.map_err(ServeError::Requests)?;
        ready(self.registry.open());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(request) = requests.next() => self.on_request(&request).await?,
                Some(reported) = self.reports.recv() => {
                    self.on_report(reported);
                    self.take_departures().await;
                }
                _ = ticks.tick() => {
                    self.take_departures().await;
                    self.save().await?;
                }
            }
            while self.attempts.try_join_next().is_some() {}
            if self.lease.is_held() && self.farm.connection.is_up() {
                for job in self.registry.due() {
                    self.begin(job);
                }
            }
        }
    }

    /// Stores what is left to be stored when the dispatcher has ended.
    pub(super) async fn end(&mut self) {
        while let Ok(reported) = self.reports.try_recv() {
            self.on_report(reported);
        }
        self.take_departures().await;
        if self.lease.is_held()
            && let Err(error) = self.save().await
        {
            tracing::warn!(
                error = one_line(&error),
                "the last records of jobs could not be stored"
            );
        }
    }

    async fn on_request(&mut self, request: &async_nats::Message) -> Result<(), ServeError> {
        let answer_to = request.reply.clone().filter(|subject| is_inbox(subject));
        let Some(answer_to) = answer_to else {
            return Ok(());
        };
        // Another coordinator may have the farm. Its answer is the right one.
        if !self.lease.is_held() {
            return Ok(());
        }
        let reply = match wire::decode(&request.payload) {
            Ok(request) => self.answer(request).await?,
            Err(error) => FarmReply::Refused {
                reason: format!("the coordinator cannot read the request: {}", one_line(&error)),
            },
        };
        match wire::encode(&reply) {
            // One that asked and went away needs no answer.
            Ok(payload) => drop(
                self.farm
                    .connection
                    .client
                    .publish(answer_to, payload.into())
                    .await,
            ),
            Err(error) => tracing::warn!(error = one_line(&error), "an answer cannot be encoded"),
        }
        Ok(())
    }

    async fn answer(&mut self, request: FarmRequest) -> Result<FarmReply, ServeError> {
        let answered = match request {
            FarmRequest::Announce { job, store_bytes } => return Ok(self.announce(job, store_bytes).await),
            FarmRequest::Submit(submission) => return self.submit(*submission).await,
            FarmRequest::Control { job, control } => return self.control(job, control).await,
            FarmRequest::Delete { job } => return Ok(self.delete(job).await),
            FarmRequest::VideoFailed { job, reason } => {
                if let Some(news) = self.videos.get(&job) {
                    // The attempt may just have ended.
                    let _ended = news.send(VideoNews::Failed { reason });
                }
                self.registry.view(job)
            }
            FarmRequest::Show { job } => self.registry.view(job),
            FarmRequest::Watch { job } => {
                self.watchers.watch(job, Instant::now());
                self.registry.view(job)
            }
            FarmRequest::List(filter) => {
                let (jobs, total) = self.registry.list(&filter);
                return Ok(FarmReply::Jobs { jobs, total });
            }
        };
        Ok(reply(answered.map(Box::new).map(FarmReply::Job)))
    }

    async fn announce(&self, job: JobId, store_bytes: u64) -> FarmReply {
        match self.registry.view(job) {
            Ok(view) if view.record.phase == JobPhase::Complete || !view.record.phase.is_over() => {
                FarmReply::Job(Box::new(view))
            }
            _ => {
                let room = storage::media_room(&self.farm.connection.context).await;
                let refused = match room {
                    Ok(room) => NoStorage::check(store_bytes, room)
                        .err()
                        .map(|error| one_line(&error)),
                    Err(error) => Some(one_line(&error)),
                };
                refused.map_or(FarmReply::Room, |reason| FarmReply::Refused { reason })
            }
        }
    }

    async fn submit(&mut self, submission: Submission) -> Result<FarmReply, ServeError> {
        let Submission { spec, order } = submission;
        let job = spec.id;
        if [&order.name, &order.submitter, &order.extension, &order.weights]
            .iter()
            .any(|text| text.len() > MAX_TEXT_BYTES)
        {
            return Ok(FarmReply::Refused {
                reason: format!("a name is longer than {MAX_TEXT_BYTES} bytes"),
            });
        }
        if let Err(error) = manifest::store_on_farm(&self.farm.connection, &spec).await {
            return Ok(FarmReply::Refused {
                reason: one_line(&error),
            });
        }
        let is_new = match self.registry.submit(job, spec.frames, order, now_ms()) {
            Ok(is_new) => is_new,
            Err(refusal) => return Ok(reply(Err(refusal))),
        };
        if is_new {
            tracing::info!(%job, "submitted");
        }
        // Whoever submits a job and watches it misses nothing.
        self.watchers.watch(job, Instant::now());
        self.stored(job, is_new).await
    }

    async fn control(&mut self, job: JobId, control: Control) -> Result<FarmReply, ServeError> {
        let has_changed = match self.registry.control(job, control, now_ms()) {
            Ok(has_changed) => has_changed,
            Err(refusal) => return Ok(reply(Err(refusal))),
        };
        if has_changed {
            tracing::info!(%job, ?control, "an operator has changed a job");
            if self.registry.get(job).is_ok_and(|entry| entry.is_dispatched) {
                let order = match control {
                    Control::Pause => Order::Pause { job, is_paused: true },
                    Control::Resume => Order::Pause {
                        job,
                        is_paused: false,
                    },
                    Control::Cancel => Order::Cancel(job),
                    Control::SetPriority(priority) => Order::SetPriority { job, priority },
                    // A job that was retried is not on the dispatcher.
                    Control::Retry => return self.stored(job, has_changed).await,
                };
                // The dispatcher may be ending.
                let _not_taken = self.orders.send(order);
            }
        }
        self.stored(job, has_changed).await
    }

    /// Forgets a job that is over, with what the farm has of it. Its blobs go when they are old enough: other jobs
    /// may have the same.
    async fn delete(&mut self, job: JobId) -> FarmReply {
        let is_over = self.registry.get(job).map(|entry| entry.record.phase.is_over());
        if is_over == Ok(true)
            && let Err(error) = self.records.remove(job).await
        {
            return FarmReply::Refused {
                reason: format!("the farm's server did not forget the job: {}", one_line(&error)),
            };
        }
        match self.registry.remove(job) {
            Ok(()) => {
                tracing::info!(%job, "an operator has deleted a job");
                self.unsaved.remove(&job);
                FarmReply::Deleted
            }
            Err(refusal) => reply(Err(refusal)),
        }
    }

    /// Answers with the job, once its change is stored.
    async fn stored(&mut self, job: JobId, has_changed: bool) -> Result<FarmReply, ServeError> {
        if has_changed {
            self.unsaved.insert(job);
            self.save().await?;
        }
        if self.unsaved.contains(&job) {
            return Ok(FarmReply::Refused {
                reason: "the farm's server did not store the change yet, and the coordinator tries again: ask for the \
                         job's status in a moment"
                    .to_owned(),
            });
        }
        Ok(reply(self.registry.view(job).map(Box::new).map(FarmReply::Job)))
    }

    fn on_report(&mut self, (job, number, report): Reported) {
        match report {
            Report::Progress { frames_done } => self.registry.on_progress(job, number, frames_done),
            Report::Wait(waits_for) => self.registry.on_wait(job, number, waits_for),
            Report::Left(departure) => self.departures.push((job, number, departure)),
        }
    }

    /// Records the jobs that have left the dispatcher, each once its figures are stored: whoever sees that a job is
    /// over can read them.
    async fn take_departures(&mut self) {
        for (job, number, mut departure) in std::mem::take(&mut self.departures) {
            if let Some(outcome) = departure.outcome.take() {
                let stored = if self.farm.connection.is_up() && self.lease.is_held() {
                    self.records.write_outcome(job, &outcome).await
                } else {
                    Err(RecordError::Away)
                };
                if let Err(error) = stored {
                    tracing::debug!(%job, error = one_line(&error), "the figures of a job are not stored yet");
                    departure.outcome = Some(outcome);
                    self.departures.push((job, number, departure));
                    continue;
                }
            }
            let Departure { phase, reason, .. } = departure;
            tracing::info!(%job, %phase, reason, "a job has left the dispatcher");
            self.registry.on_left(job, number, (phase, reason), now_ms());
            self.videos.remove(&job);
            self.unsaved.insert(job);
        }
    }

    /// Brings a job to the dispatcher.
    fn begin(&mut self, job: JobId) {
        let (number, priority) = match self.registry.on_dispatched(job, now_ms()) {
            Ok(record) => (record.number, record.priority),
            Err(_gone) => return,
        };
        let Ok(entry) = self.registry.get(job) else { return };
        let attempt = Attempt {
            farm: self.farm.clone(),
            job,
            number,
            order: entry.order.clone(),
            priority,
            start_worker: start_worker(self.farm.connection.url(), &entry.order.weights),
            orders: self.orders.clone(),
            reports: self.reporter.clone(),
            watchers: self.watchers.clone(),
        };
        let (news, video) = mpsc::unbounded_channel();
        self.videos.insert(job, news.clone());
        self.unsaved.insert(job);
        let folder = self.dir.join("jobs").join(job.to_string());
        self.attempts
            .spawn(async move { attempt.run(&folder, news, video).await });
    }

    /// Stores the records that have changed. What cannot be stored now is tried again with the next tick.
    async fn save(&mut self) -> Result<(), ServeError> {
        if !self.farm.connection.is_up() || !self.lease.is_held() {
            return Ok(());
        }
        for job in std::mem::take(&mut self.unsaved) {
            let Ok(entry) = self.registry.get(job) else {
                continue;
            };
            let written = match self.records.write_order(job, &entry.order).await {
                Ok(()) => self.records.write_record(job, &entry.record).await,
                Err(error) => Err(error),
            };
            match written {
                Ok(()) => {}
                Err(RecordError::Taken) => return Err(RecordError::Taken.into()),
                Err(error) => {
                    tracing::warn!(%job, error = one_line(&error), "cannot store the record of a job, trying again");
                    self.unsaved.insert(job);
                }
            }
        }
        Ok(())
    }
}

/// Whether a subject is one that answers are sent to. Whoever may ask must not make the coordinator, which may
/// do more, publish anywhere else.
fn is_inbox(subject: &str) -> bool {
    [OPERATOR_INBOX, COORDINATOR_INBOX].iter().any(|inbox| {
        subject
            .strip_prefix(inbox)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// Returns how a worker of the farm is started, in one clause.
fn start_worker(url: &str, weights: &str) -> String {
    let key = match std::env::var_os(SEED_VARIABLE) {
        Some(_) => format!(", with the worker's key in {SEED_VARIABLE}"),
        None => String::new(),
    };
    format!("start one with `latentfarm-worker run --nats {url} --weights {weights}`{key}")
}

/// Turns a refusal into an answer.
fn reply(answered: Result<FarmReply, Refusal>) -> FarmReply {
    answered.unwrap_or_else(|refusal| match refusal {
        Refusal::NoSuchJob(job) => FarmReply::NoSuchJob { job },
        refusal => FarmReply::Refused {
            reason: one_line(&refusal),
        },
    })
}

/// Returns the time in milliseconds since the Unix epoch, for people.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_inboxes_alone() {
        for inbox in [OPERATOR_INBOX, COORDINATOR_INBOX] {
            assert!(is_inbox(&format!("{inbox}.a.b")));
        }
        for subject in [
            "$JS.API.STREAM.DELETE.FARM_DONE",
            "$KV.farm-jobs.0123456789abcdef.record",
            "farm.ctl.all",
            "_INBOX_op_x",
            "",
        ] {
            assert!(!is_inbox(subject), "{subject}");
        }
    }
}
