//! The one task that owns the state of the farm and of its jobs. The fields concern the whole farm; the state
//! of one job is in its [`Job`]. A render is a farm with one job.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::{JobId, WorkKind};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::lease::Lease;
use latentfarm_common::shutdown::{Phase as Stage, Shutdown};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::outcome::{Event, EventKind, Heartbeat};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::claim::Claim;
use super::error::DispatchError;
use super::farm::Farm;
use super::inbox::{FarmMessage, Inbox};
use super::job::Job;
use super::job_event::JobEvent;
use super::memory_request::MemoryRequests;
use super::need_estimator::NeedEstimator;
use super::order::{JobEnd, Order};
use super::outage_watch::OutageWatch;
use super::placer::Placer;
use super::publisher::TaskPublisher;
use super::rebalance::Rebalancer;
use super::repair::repair;
use super::sampler::Sampler;
use super::segment_reader::SegmentReader;
use super::settings::FarmSettings;
use super::shared_analysis::RecordSharer;
use super::signers::Signers;
use super::verify::{Results, Verifier};
use super::wait_reason::FarmView;
use super::workers::{VANISHED, Workers};
use crate::job::chunk::event::ChunkEvent;

const TICK: Duration = Duration::from_millis(500);

/// The dispatcher of a farm, run by the process that holds the farm's lease.
pub(super) struct Dispatcher<'a> {
    pub(super) connection: &'a Connection,
    pub(super) lease: &'a Lease,
    pub(super) settings: FarmSettings,
    pub(super) inbox: Inbox,
    pub(super) workers: Workers,
    pub(super) signers: Signers,
    /// Records that wait for a report of their workers.
    pub(super) claims: Vec<Claim>,
    pub(super) estimator: NeedEstimator,
    placer: Placer,
    pub(super) publisher: TaskPublisher,
    pub(super) verifier: Verifier,
    pub(super) sampler: Sampler,
    results: Results,
    pub(super) jobs: BTreeMap<JobId, Job>,
    /// Who is told how each job ended.
    pub(super) ends: BTreeMap<JobId, oneshot::Sender<Result<JobEnd, DispatchError>>>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Whether more orders may come.
    takes_orders: bool,
    pub(super) draining_since: Option<Instant>,
    outages: OutageWatch,
    memory_requests: MemoryRequests,
    pub(super) sharer: RecordSharer,
    pub(super) rebalancer: Rebalancer,
    next_reconcile: Instant,
}

impl<'a> Dispatcher<'a> {
    pub(super) async fn open(
        farm: &'a Farm,
        lease: &'a Lease,
        settings: FarmSettings,
        reader: SegmentReader,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Self, DispatchError> {
        let timeouts = &settings.timeouts;
        let (verifier, results) = Verifier::new(farm, reader);
        Ok(Self {
            connection: &farm.connection,
            lease,
            inbox: Inbox::open(&farm.connection).await?,
            workers: Workers::new(timeouts.worker_timeout, timeouts.tenant_grace_period)
                .with_pauses(timeouts.set_aside.clone()),
            signers: Signers::read(&farm.connection)
                .await
                .map_err(DispatchError::at("read the keys of workers"))?,
            claims: Vec::new(),
            estimator: NeedEstimator::default(),
            placer: Placer::new(timeouts.placement_interval, Instant::now()),
            publisher: TaskPublisher::new(farm, lease.epoch()),
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
            sharer: RecordSharer::new(DoneLog::new(&farm.connection)),
            next_reconcile: Instant::now() + timeouts.reconcile_interval,
            settings,
        })
    }

    /// Runs the farm until no more orders can come and all jobs have ended, or until `shutdown`.
    pub(super) async fn run(&mut self, mut shutdown: Shutdown) -> Result<(), DispatchError> {
        let mut stop = shutdown.clone();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_drained = self.draining_since.is_some() || !self.takes_orders;
            if is_drained && self.jobs.is_empty() {
                self.write_estimates(true).await;
                return Ok(());
            }
            let draining = self.draining_since.is_some();
            let placing = self
                .placer
                .due_at()
                .filter(|_| !draining && self.connection.is_up());
            tokio::select! {
                Some(message) = self.inbox.messages.recv() => {
                    self.on_message(message).await;
                    while let Ok(message) = self.inbox.messages.try_recv() {
                        self.on_message(message).await;
                    }
                }
                order = self.orders.recv(), if self.takes_orders && !draining => match order {
                    Some(order) => self.on_order(order).await,
                    None => self.takes_orders = false,
                },
                Some(verdict) = self.results.verdicts.recv() => self.on_verdict(verdict).await,
                Some(compared) = self.results.comparisons.recv() => self.on_comparison(compared),
                _ = ticks.tick() => self.on_tick().await,
                () = sleep_until(placing.unwrap_or_else(Instant::now)), if placing.is_some() => {}
                () = self.lease.lost() => return Err(DispatchError::LeaseLost),
                () = stop.reached(Stage::Stopping) => {
                    self.finish(|job| Some(job.chunks.interrupted())).await;
                    continue;
                }
                () = shutdown.reached(Stage::Draining), if !draining => self.drain().await,
            }
            // The process may have been suspended, or may be cut off from the server. Without its lease it
            // decides nothing.
            let mut is_stopped = false;
            while !self.lease.is_held() && !is_stopped {
                tokio::select! {
                    held = self.lease.held() => held.map_err(|_lost| DispatchError::LeaseLost)?,
                    _ = ticks.tick() => self.report_waits(),
                    () = stop.reached(Stage::Draining) => is_stopped = true,
                }
            }
            if is_stopped {
                self.finish(|job| Some(job.chunks.interrupted())).await;
                continue;
            }
            self.release();
            if self.draining_since.is_none() && self.connection.is_up() {
                self.measure_borders().await;
            }
            self.announce_set_aside().await;
            let is_over = self.is_drained();
            self.finish(|job| job.ending(is_over)).await;
            // Without a link each request would take until its time limit, and nothing else would be done.
            if self.draining_since.is_none() && self.connection.is_up() {
                self.place().await;
                self.publisher.publish(&mut self.jobs, &self.workers).await?;
            }
        }
    }

    async fn on_message(&mut self, message: FarmMessage) {
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

    async fn on_tick(&mut self) {
        let (now, is_up) = (Instant::now(), self.connection.is_up());
        self.expire_workers(now).await;
        self.workers.end_pauses(now);
        self.settle_overdue_claims(now).await;
        for job in self.jobs.values_mut() {
            job.give_up_failing(&self.workers);
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
                self.publisher.retract_pending(job).await;
            }
            let is_wanted = self.jobs.values().any(|job| job.waits.wants_memory);
            self.memory_requests
                .send_if_due(self.connection, is_wanted, now)
                .await;
        }
        self.report_waits();
        for job in self.jobs.values() {
            job.notify_progress(&self.workers);
        }
    }

    /// Reports changes of the link, and what each job waits for. It needs neither the link nor the lease.
    fn report_waits(&mut self) {
        let now = Instant::now();
        let (url, outage) = (self.connection.url(), self.connection.outage());
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
    async fn place(&mut self) {
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
        if self.connection.is_up() && self.lease.is_held() {
            self.estimator.write(self.connection, last).await;
            self.signers.write(self.connection).await;
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
        if let Some(known) = known.filter(|known| known.backup == Some(attempt)) {
            // The attempt that counts is another one.
            if event.kind != EventKind::Started {
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
                job.give_up_if_failing(chunk, &self.workers);
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
        if self.draining_since.is_none() && self.connection.is_up() && self.lease.is_held() {
            self.relieve_idle(now).await;
        }
    }
}
