//! How jobs come to a farm and leave it, how workers leave it, and what idle ones are given. The dispatcher calls this for
//! each [`Order`], for jobs that have ended, for heartbeats and their absence, and when it is asked to end.

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, JobId};
use latentfarm_common::nats::lease::Contention;
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::outcome::WorkerCommand;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backup;
use super::dispatcher::Dispatcher;
use super::error::DispatchError;
use super::job::Job;
use super::job_event::JobEvent;
use super::order::{Admission, JobEnd, Order};
use super::placer::Reassignment;
use super::rebalance::{self, Relieved};
use super::report::JobReport;
use super::workers::VANISHED;
use crate::job::chunk::state::Phase;
use crate::job::chunks::Ending;
use crate::job::record::ChunkRecord;
use crate::job::segments::VideoNews;

impl Dispatcher<'_> {
    pub(super) async fn on_order(&mut self, order: Order) {
        match order {
            Order::Admit(admission) => self.admit(*admission).await,
            Order::Cancel(id) => {
                let is_cancelled = |job: &Job| (job.spec.id == id).then_some(Ending::Cancelled);
                self.finish(is_cancelled).await;
            }
            Order::Pause { job, is_paused } => {
                if is_paused {
                    self.withdraw(job, "the job is paused").await;
                }
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.is_paused = is_paused;
                }
            }
            Order::SetPriority { job, priority } => {
                let current = self.jobs.get(&job).map(|job| job.settings.priority);
                if current != Some(priority) {
                    self.withdraw(job, "the job has another priority now").await;
                }
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.settings.priority = priority;
                }
            }
        }
    }

    async fn admit(&mut self, admission: Admission) {
        let Admission {
            planned,
            settings,
            observer,
            ended,
        } = admission;
        let id = planned.spec.id;
        if self.jobs.contains_key(&id) {
            // The receiver may be gone, here and below.
            drop(ended.send(Err(DispatchError::Admitted)));
            return;
        }
        let timeouts = self.settings.timeouts.clone();
        let taken = match Job::new(planned.spec, planned.timeline, settings, timeouts, observer) {
            Ok(job) => self.take_in(job, planned.video).await,
            Err(error) => Err(error),
        };
        match taken {
            Ok(()) => {
                self.ends.insert(id, ended);
            }
            Err(error) => {
                self.jobs.remove(&id);
                self.inbox.unfollow(id);
                drop(ended.send(Err(error)));
            }
        }
    }

    /// Adds a job: removes the tasks of an earlier coordinator, begins to verify the records that the job has,
    /// and follows the cut of its source video.
    async fn take_in(
        &mut self,
        mut job: Job,
        video: mpsc::UnboundedReceiver<VideoNews>,
    ) -> Result<(), DispatchError> {
        let id = job.spec.id;
        self.link
            .read_estimates(&mut self.estimator, &job.spec.model)
            .await;
        job.begin(self.lease.epoch());
        let adopt_at = match self.settings.contention {
            Contention::Refuse => Some(Instant::now() + self.settings.timeouts.adopt_timeout),
            Contention::Seize => None,
        };
        self.publisher.take_over(&mut job, adopt_at).await?;
        let entries = self.link.records(id).await?;
        if !entries.is_empty() {
            job.log.notify(JobEvent::Resumed {
                records: entries.len(),
            });
        }
        for out in self.workers.out_of_service(&Tags::NONE, Instant::now()) {
            job.log.on_set_aside(&out);
            job.log.send(JobEvent::set_aside(&out));
        }
        self.jobs.insert(id, job);
        // The first sequence number of the done log that was not read yet.
        let mut next = 1;
        for entry in entries {
            next = next.max(entry.sequence + 1);
            self.on_done(entry).await;
        }
        self.inbox.follow(&*self.link, id, next).await?;
        self.sharer.supply(&mut self.jobs, id);
        self.inbox.follow_video(id, video);
        Ok(())
    }

    /// Removes the tasks of a job that no worker has begun, so that they are placed again.
    async fn withdraw(&mut self, id: JobId, why: &str) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        for chunk in job.chunks.ids(|record| record.state().phase == Phase::Queued) {
            self.publisher.remove_tasks(chunk).await;
            job.on_reassigned(chunk, why.to_owned());
        }
    }

    /// Begins a drain: nothing is published any more, queued tasks are removed, and running ones may finish.
    pub(super) async fn drain(&mut self) {
        self.draining_since = Some(Instant::now());
        for job in self.jobs.values() {
            for chunk in job.chunks.ids(|record| record.state().phase == Phase::Queued) {
                self.publisher.remove_tasks(chunk).await;
            }
        }
    }

    /// Whether a drain is over, because no chunk is running any more or the drain has taken too long.
    pub(super) fn is_drained(&self) -> bool {
        self.draining_since.is_some_and(|since| {
            let is_idle = self.jobs.values().all(|job| job.chunks.running() == 0);
            is_idle || since.elapsed() >= self.settings.timeouts.drain_timeout
        })
    }

    /// Removes the jobs that have ended from the farm, and reports their ends.
    pub(super) async fn finish(&mut self, ending: impl Fn(&Job) -> Option<Ending>) {
        let ended = self.jobs.iter().filter_map(|(id, job)| Some((*id, ending(job)?)));
        for (id, ending) in ended.collect::<Vec<_>>() {
            let Some(job) = self.jobs.remove(&id) else {
                continue;
            };
            job.notify_progress(&self.workers);
            let is_done = |known: &&ChunkRecord| matches!(known.state().phase, Phase::Done { .. });
            let counted = job.chunks.iter().filter(is_done).map(|known| known.last_record);
            let open = self.claims.iter().filter(|claim| claim.chunk.job == id);
            let judged = self.judged.entry(id).or_default();
            judged.add(counted, open.map(|claim| claim.sequence));
            self.inbox.unfollow(id);
            if ending == Ending::Cancelled {
                self.stop_workers_of(id).await;
            }
            self.publisher.clear(id).await;
            let end = JobEnd {
                records: job.chunks.records(),
                report: JobReport::of(&job),
                ending,
            };
            if let Some(ended) = self.ends.remove(&id) {
                // The receiver may be gone.
                drop(ended.send(Ok(end)));
            }
        }
    }

    /// Finds something to do for idle workers.
    pub(super) async fn relieve_idle(&mut self, now: Instant) {
        let Some(Relieved { reliefs, without }) = self.rebalancer.choose(&self.jobs, &self.workers, now)
        else {
            return;
        };
        rebalance::send(&*self.link, reliefs).await;
        let Some(backup) = backup::choose(&self.jobs, &self.workers, &without, &self.estimator) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&backup.chunk.job) else {
            return;
        };
        let (chunk, worker) = (backup.chunk, &backup.worker);
        match self.publisher.publish_backup(job, &backup).await {
            Ok(()) => tracing::info!(%chunk, idle = %worker, "a chunk has a backup task"),
            Err(error) => tracing::warn!(%chunk, error = one_line(&error), "a chunk has no backup task"),
        }
    }

    /// Removes the workers that have left or were lost, and gives their tasks to others.
    pub(super) async fn expire_workers(&mut self, now: Instant) {
        let listening = self.link.is_up();
        for departed in self.workers.expire(now, listening) {
            let worker = departed.worker.clone();
            self.notify_all(&if departed.announced {
                JobEvent::WorkerLeft { worker }
            } else {
                JobEvent::WorkerLost { worker }
            });
            for job in self.jobs.values_mut() {
                for chunk in job.on_worker_departed(&departed.worker) {
                    let failed = (chunk, &job.settings.needed_tags);
                    self.workers
                        .record_failure(&departed.worker, failed, VANISHED, now);
                }
            }
            // The queue would deliver them again only after the acknowledgement wait.
            let is_queued = |chunk: &ChunkId| {
                let record = self.jobs.get(&chunk.job).and_then(|job| job.chunks.get(*chunk));
                record.is_some_and(|record| record.state().phase == Phase::Queued)
            };
            let held = departed.held.into_iter().filter(is_queued);
            let why = format!("{} held it and is gone", departed.worker);
            let moves = held
                .map(|chunk| Reassignment {
                    chunk,
                    why: why.clone(),
                })
                .collect();
            self.publisher.reassign(&mut self.jobs, moves).await;
        }
    }

    /// Logs an event that concerns the whole farm, and sends it to the observer of every job.
    pub(super) fn notify_all(&self, event: &JobEvent) {
        event.log();
        for job in self.jobs.values() {
            job.log.send(event.clone());
        }
    }

    /// Asks the workers that are at work on a job to give it up. A worker that does not receive this finishes its chunk.
    async fn stop_workers_of(&self, job: JobId) {
        let cancel = WorkerCommand::Cancel(job);
        if let Err(error) = self.link.command(None, cancel).await {
            tracing::warn!(
                error = one_line(&error),
                "cannot ask the workers to give a job up"
            );
        }
    }
}
