//! The jobs of a standing coordinator: it answers the operators' requests, brings jobs to the dispatcher when it
//! is their turn, and records what becomes of them.

mod deliveries;
mod requests;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use latentfarm_common::clock;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::heartbeats;
use latentfarm_common::nats::identity::SEED_VARIABLE;
use latentfarm_common::nats::lease::Lease;
use latentfarm_common::nats::subjects::{ALL_HEARTBEATS, FARM_QUESTIONS, FARM_REQUESTS};
use latentfarm_common::time::milliseconds;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::dispatch::{Farm, Order};
use crate::farm::attempt::{Attempt, Departure, Report, Reported};
use crate::farm::error::ServeError;
use crate::farm::records::{RecordError, RecordStore};
use crate::farm::registry::Registry;
use crate::farm::sweep::{SweepError, Swept};
use crate::farm::watchers::Watchers;
use crate::job::segments::VideoNews;

/// How often records that have changed are stored.
const TICK: Duration = Duration::from_secs(1);
/// The first sweep of the store comes so long after the start.
const FIRST_SWEEP: Duration = Duration::from_mins(1);

/// How long a farm keeps what is over.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Results of jobs, and the inputs of those that were not complete.
    pub results: Duration,
    /// Jobs in the list.
    pub history: Duration,
}

/// What a standing coordinator is given besides its farm.
#[derive(Clone, Debug)]
pub struct CoordinatorSettings {
    /// Folder for the journals of jobs.
    pub dir: PathBuf,
    pub retention: Retention,
    /// Folder below which outputs are written for the jobs that ask for that; `None` if none may.
    pub output_root: Option<PathBuf>,
}

/// A delivery that has ended, and why it failed if it did.
type Delivered = (JobId, Result<(), String>);

/// The jobs of the farm, and the ways to its dispatcher and its bucket.
pub(in crate::farm) struct Coordinator<'a> {
    farm: &'a Farm,
    lease: &'a Lease,
    dir: PathBuf,
    registry: Registry,
    records: RecordStore,
    /// Jobs whose records have changed since they were stored.
    unsaved: BTreeSet<JobId>,
    /// Those of them whose orders are to be stored too, which never change after that.
    unsaved_orders: BTreeSet<JobId>,
    orders: mpsc::UnboundedSender<Order>,
    attempts: JoinSet<()>,
    /// Where news of the video of each job on the dispatcher are sent.
    videos: BTreeMap<JobId, mpsc::UnboundedSender<VideoNews>>,
    /// Jobs that have left the dispatcher, with the numbers of their submissions, whose figures are not stored yet.
    departures: Vec<(JobId, u64, Departure)>,
    watchers: Watchers,
    retention: Retention,
    output_root: Option<PathBuf>,
    /// The output that is being written, if one is.
    deliveries: JoinSet<Delivered>,
    /// Jobs whose submitters have room and store the first blobs, each since when.
    coming: BTreeMap<JobId, Instant>,
    /// The sweep of the store, if one is under way.
    sweeps: JoinSet<Result<Swept, SweepError>>,
    /// Bytes that a job needs which was refused for want of room, besides those that other jobs are promised.
    wanted_bytes: u64,
    next_look: Instant,
    next_sweep: Instant,
    reports: mpsc::UnboundedReceiver<Reported>,
    reporter: mpsc::UnboundedSender<Reported>,
}

impl<'a> Coordinator<'a> {
    pub(in crate::farm) async fn open(
        farm: &'a Farm,
        lease: &'a Lease,
        settings: CoordinatorSettings,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Result<Self, ServeError> {
        let CoordinatorSettings {
            dir,
            retention,
            output_root,
        } = settings;
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
            unsaved_orders: BTreeSet::new(),
            orders,
            attempts: JoinSet::new(),
            videos: BTreeMap::new(),
            departures: Vec::new(),
            watchers: Watchers::default(),
            retention,
            output_root,
            deliveries: JoinSet::new(),
            coming: BTreeMap::new(),
            sweeps: JoinSet::new(),
            wanted_bytes: 0,
            next_look: Instant::now(),
            next_sweep: Instant::now() + FIRST_SWEEP,
            reports,
            reporter,
        })
    }

    /// Answers requests and brings jobs to the dispatcher, without end.
    pub(in crate::farm) async fn run(&mut self, ready: impl FnOnce(usize)) -> Result<(), ServeError> {
        let client = &self.farm.connection.client;
        let requests = client
            .subscribe(FARM_REQUESTS)
            .await
            .map_err(ServeError::Requests)?;
        let questions = client
            .subscribe(FARM_QUESTIONS)
            .await
            .map_err(ServeError::Requests)?;
        let mut requests = futures::stream::select(requests, questions);
        let mut beats = client
            .subscribe(ALL_HEARTBEATS)
            .await
            .map_err(ServeError::Requests)?;
        ready(self.registry.open());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(request) = requests.next() => self.on_request(&request).await?,
                Some(message) = beats.next() => {
                    // The dispatcher reports one that cannot be read.
                    if let Ok((heartbeat, _)) = heartbeats::read(&message) {
                        self.registry.on_heartbeat(&heartbeat, now_ms());
                    }
                    continue;
                }
                Some(reported) = self.reports.recv() => {
                    self.on_report(reported);
                    self.take_departures().await;
                }
                _ = ticks.tick() => {
                    self.take_departures().await;
                    self.unsaved.extend(self.registry.record_forecasts(now_ms()));
                    self.save().await?;
                    self.forget_old().await;
                    self.look_after_store();
                    self.deliver();
                }
                Some(delivered) = self.deliveries.join_next() => self.on_delivered(delivered),
                Some(swept) = self.sweeps.join_next() => Self::on_swept(swept),
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
    pub(in crate::farm) async fn end(&mut self) {
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

    /// Returns the folder of a job's journal.
    fn folder_of(&self, job: JobId) -> PathBuf {
        self.dir.join("jobs").join(job.to_string())
    }

    fn on_report(&mut self, (job, number, report): Reported) {
        match report {
            Report::Progress { frames_done } => self.registry.on_progress(job, number, frames_done, now_ms()),
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
            same_video: self.registry.with_video(entry.order.video, job),
        };
        let (news, video) = mpsc::unbounded_channel();
        self.videos.insert(job, news.clone());
        self.unsaved.insert(job);
        let folder = self.folder_of(job);
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
            let order = if self.unsaved_orders.contains(&job) {
                self.records.write_order(job, &entry.order).await
            } else {
                Ok(())
            };
            let written = match order {
                Ok(()) => self.records.write_record(job, &entry.record).await,
                Err(error) => Err(error),
            };
            match written {
                Ok(()) => {
                    self.unsaved_orders.remove(&job);
                }
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

/// Returns how a worker of the farm is started, in one clause.
fn start_worker(url: &str, weights: &str) -> String {
    let key = match std::env::var_os(SEED_VARIABLE) {
        Some(_) => format!(", with the worker's key in {SEED_VARIABLE}"),
        None => String::new(),
    };
    format!("start one with `latentfarm-worker run --nats {url} --weights {weights}`{key}")
}

/// Returns the time in milliseconds since the Unix epoch, for people.
fn now_ms() -> u64 {
    milliseconds(clock::since_1970())
}
