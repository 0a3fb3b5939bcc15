//! The one task that owns the state of the farm and of its jobs. The fields concern the whole farm; the state
//! of one job is in its [`Job`]. A render is a farm with one job.

use std::collections::BTreeMap;
use std::sync::Arc;

use latentfarm_common::ids::{JobId, WorkKind};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::outcome::{Event, EventKind, Heartbeat};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::claim::Claim;
use super::error::DispatchError;
use super::farm_link::FarmLink;
use super::farm_message::FarmMessage;
use super::inbox::Inbox;
use super::job::Job;
use super::job_event::JobEvent;
use super::judged::JudgedRecords;
use super::lease_view::LeaseView;
use super::memory_request::MemoryRequests;
use super::need_estimator::NeedEstimator;
use super::order::{JobEnd, Order};
use super::outage_watch::OutageWatch;
use super::placer::Placer;
use super::publisher::TaskPublisher;
use super::rebalance::Rebalancer;
use super::repair::repair;
use super::sampler::Sampler;
use super::settings::FarmSettings;
use super::shared_analysis::RecordSharer;
use super::signers::Signers;
use super::verify::{Results, Verifier};
use super::wait_reason::FarmView;
use super::workers::{VANISHED, Workers};
use crate::job::chunk::event::ChunkEvent;

/// The dispatcher of a farm, run by the process that holds the farm's lease.
pub(super) struct Dispatcher<'a> {
    pub(super) link: Arc<dyn FarmLink>,
    pub(super) lease: &'a dyn LeaseView,
    pub(super) settings: FarmSettings,
    pub(super) inbox: Inbox,
    pub(super) workers: Workers,
    pub(super) signers: Signers,
    /// Records that wait for a report of their workers.
    pub(super) claims: Vec<Claim>,
    /// What was decided about the records of jobs that have left.
    pub(super) judged: BTreeMap<JobId, JudgedRecords>,
    pub(super) estimator: NeedEstimator,
    pub(super) placer: Placer,
    pub(super) publisher: TaskPublisher,
    pub(super) verifier: Verifier,
    pub(super) sampler: Sampler,
    pub(super) results: Results,
    pub(super) jobs: BTreeMap<JobId, Job>,
    /// Who is told how each job ended.
    pub(super) ends: BTreeMap<JobId, oneshot::Sender<Result<JobEnd, DispatchError>>>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    /// Whether more orders may come.
    pub(super) takes_orders: bool,
    pub(super) draining_since: Option<Instant>,
    outages: OutageWatch,
    memory_requests: MemoryRequests,
    pub(super) sharer: RecordSharer,
    pub(super) rebalancer: Rebalancer,
    next_reconcile: Instant,
}

impl<'a> Dispatcher<'a> {
    pub(super) async fn open(
        link: Arc<dyn FarmLink>,
        lease: &'a dyn LeaseView,
        settings: FarmSettings,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Self, DispatchError> {
        let timeouts = &settings.timeouts;
        let (verifier, results) = Verifier::new(&link);
        Ok(Self {
            lease,
            inbox: Inbox::open(&*link).await?,
            workers: Workers::new(timeouts.worker_timeout, timeouts.tenant_grace_period)
                .with_pauses(timeouts.set_aside.clone()),
            signers: link.read_signers().await?,
            claims: Vec::new(),
            judged: BTreeMap::new(),
            estimator: NeedEstimator::default(),
            placer: Placer::new(timeouts.placement_interval, Instant::now()),
            publisher: TaskPublisher::new(&link, lease.epoch()),
            verifier,
            sampler: Sampler::new(settings.spot_check),
            results,
            jobs: BTreeMap::new(),
            ends: BTreeMap::new(),
            orders,
            takes_orders: true,
            draining_since: None,
            outages: OutageWatch::default(),
            memory_requests: MemoryRequests::default(),
            rebalancer: Rebalancer::default(),
            sharer: RecordSharer::new(&link),
            next_reconcile: Instant::now() + timeouts.reconcile_interval,
            settings,
            link,
        })
    }

    pub(super) async fn on_message(&mut self, message: FarmMessage) {
        match message {
            FarmMessage::Done(entry) => self.on_done(entry).await,
            FarmMessage::Event(event) => {
                let worker = event.worker.clone();
                if event.chunk.work == WorkKind::SpotCheck {
                    self.on_spot_check_event(&event).await;
                } else {
                    self.renew_declined(&event).await;
                }
                self.on_event(event);
                self.settle_claims_of(&worker).await;
            }
            FarmMessage::Heartbeat { heartbeat, key } => {
                let worker = heartbeat.worker.clone();
                self.signers.learn(&worker, key.as_ref(), Instant::now());
                self.on_heartbeat(heartbeat).await;
                self.settle_claims_of(&worker).await;
            }
            FarmMessage::Video { job, news } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.segments.on_news(&news);
                }
            }
        }
    }

    pub(super) async fn on_tick(&mut self) {
        let (now, is_up) = (Instant::now(), self.link.is_up());
        self.expire_workers(now).await;
        self.workers.end_pauses(now);
        self.settle_overdue_claims(now).await;
        for job in self.jobs.values_mut() {
            job.give_up_failing(&self.workers, &self.estimator);
        }
        if is_up {
            self.check_border_samples(now);
            self.tend_spot_checks(now).await;
        }
        if now >= self.next_reconcile && is_up {
            self.next_reconcile = now + self.settings.timeouts.reconcile_interval;
            for job in self.jobs.values_mut() {
                repair(job, &self.publisher, &self.workers).await;
            }
        }
        self.write_estimates(false).await;
        if is_up {
            for job in self.jobs.values_mut() {
                self.publisher.retract_pending(job, self.lease).await;
            }
            let is_wanted = self.jobs.values().any(|job| job.waits.wants_memory);
            self.memory_requests
                .send_if_due(&*self.link, is_wanted, now)
                .await;
        }
        self.report_waits();
        for job in self.jobs.values() {
            job.notify_progress(&self.workers);
        }
    }

    /// Reports changes of the link, and what each job waits for. It needs neither the link nor the lease.
    pub(super) fn report_waits(&mut self) {
        let now = Instant::now();
        let link = Arc::clone(&self.link);
        let (url, outage) = (link.url(), link.outage());
        if let Some(change) = self.outages.observe(url, outage.as_ref(), now) {
            self.notify_all(&change);
        }
        if outage.is_some() {
            self.publisher.on_outage();
        }
        // A drain leaves the chunks that no worker has begun to the next run.
        if self.draining_since.is_some() {
            return;
        }
        let refusal = self.publisher.refusal();
        let farm = FarmView {
            url,
            outage: outage.as_ref(),
            has_lease: self.lease.is_held(),
            refusal: refusal.as_ref(),
        };
        for job in self.jobs.values_mut() {
            job.check_waits(&self.workers, farm, now);
        }
    }

    /// Places the chunks that no worker has begun, if anything has changed and a placement is due.
    pub(super) async fn place(&mut self) {
        let now = Instant::now();
        let mut is_stale = self.workers.take_changed();
        let has_drifted = self.workers.take_drifted();
        for job in self.jobs.values_mut() {
            is_stale |= has_drifted && job.chunks.any_unschedulable();
            is_stale |= job.take_moved();
            let mut records = job.chunks.render.iter();
            is_stale |= !job.is_paused && records.any(|record| record.needs_placement(now));
        }
        if is_stale {
            self.placer.mark_stale();
        }
        let capacities = self.workers.capacities(&Tags::NONE);
        if let Some(moves) = self
            .placer
            .place(&mut self.jobs, &capacities, &self.estimator, now)
        {
            self.publisher.reassign(&mut self.jobs, moves).await;
        }
    }

    /// Writes the estimated needs and the keys of workers, if this process still holds the lease and is connected.
    pub(super) async fn write_estimates(&mut self, last: bool) {
        if self.link.is_up() && self.lease.is_held() {
            self.link.write_estimates(&mut self.estimator, last).await;
            self.link.write_signers(&mut self.signers).await;
        }
    }

    fn on_event(&mut self, event: Event) {
        let (chunk, worker) = (event.chunk, event.worker);
        self.workers.record_report(&worker, Instant::now());
        if let EventKind::Failed(failure) = &event.kind {
            self.on_worker_failure(&worker, chunk, failure);
        }
        match chunk.work {
            WorkKind::Border => return self.on_border_event(chunk, &event.kind),
            WorkKind::SpotCheck => return,
            WorkKind::Analyze | WorkKind::Render => {}
        }
        let Some(job) = self.jobs.get_mut(&chunk.job) else {
            return;
        };
        // A worker that could not decode the task reports no epoch.
        let current = job
            .chunks
            .get(chunk)
            .map_or(0, |record| record.state().attempt.epoch);
        let mut attempt = event.attempt;
        if attempt.epoch == 0 {
            attempt.epoch = current;
        }
        let mut known = job.chunks.get_mut(chunk);
        if let (Some(known), EventKind::Started) = (&mut known, &event.kind) {
            known.holders.add(&worker, attempt);
        }
        if let Some(known) = known.filter(|known| known.is_of_backup(attempt)) {
            // The attempt that counts is another one. A task that was given back is in its queue as before.
            if matches!(event.kind, EventKind::Failed(_)) && known.backup == Some(attempt) {
                known.backup = None;
            }
            return;
        }
        match event.kind {
            EventKind::Started => job.on_started(chunk, attempt, worker),
            EventKind::Released => job.apply(chunk, ChunkEvent::Returned { attempt }),
            EventKind::Failed(failure) => {
                if let Some(oom) = job.on_failed(chunk, attempt, &worker, failure) {
                    let predicted = &job.settings.needs;
                    self.estimator.observe_oom(&job.spec.model, predicted, &oom);
                }
                job.give_up_if_failing(chunk, &self.workers, &self.estimator);
            }
        }
    }

    async fn on_heartbeat(&mut self, heartbeat: Heartbeat) {
        let now = Instant::now();
        for job in self.jobs.values_mut() {
            for chunk in job.on_heartbeat(&heartbeat, now) {
                let failed = (chunk, &job.settings.needed_tags);
                self.workers
                    .record_failure(&heartbeat.worker, failed, VANISHED, now);
            }
        }
        let (worker, device) = (heartbeat.worker.clone(), heartbeat.device.clone());
        if self.workers.record_heartbeat(heartbeat.clone(), now) {
            self.notify_all(&JobEvent::WorkerJoined { worker, device });
        }
        self.keep_set_aside(&heartbeat, now).await;
        self.notify_all(&JobEvent::Heartbeat(Box::new(heartbeat)));
        if self.draining_since.is_none() && self.link.is_up() && self.lease.is_held() {
            self.relieve_idle(now).await;
        }
    }
}
