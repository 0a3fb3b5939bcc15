//! The phases of a render on a connected farm: prepare, dispatch, finish. `RenderJob::run` calls them in this
//! order and stops at the first that a signal or an error ends.

use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::lease::{Contention, Lease};
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::cut::VideoCut;
use super::error::RenderError;
use super::event::{Observer, RenderEvent};
use super::inputs::StoredInputs;
use super::join::Join;
use super::preflight::Preflight;
use super::report::{RenderReport, Written};
use super::room::Volume;
use crate::dispatch::{
    self, DispatchSettings, Ending, Farm, JobEnd, JobEvent, OnlyJob, PlannedJob, SegmentReader,
};
use crate::ingest::ExaminedInputs;
use crate::job::folder::JobFolder;
use crate::job::manifest;
use crate::job::segments::VideoNews;
use crate::local::LocalFarm;

/// How often the room of the work folder is looked at while chunks are rendered.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
/// A render ends when less than this is free in its work folder.
const RESERVED_BYTES: u64 = 16 << 20;

/// The inputs that all phases of one run share.
pub(super) struct Run<'a> {
    pub(super) preflight: &'a Preflight,
    pub(super) folder: &'a JobFolder,
    pub(super) farm: &'a Farm,
    pub(super) observer: &'a Observer,
}

/// A job that the dispatcher has ended.
pub(super) struct Dispatched {
    end: JobEnd,
    lease: Lease,
    /// Number of chunks that an earlier run had finished.
    resumed_chunks: usize,
}

impl Run<'_> {
    /// Plans the job: returns the manifest and the timeline of an earlier run if the job folder has them,
    /// else new ones. Returns `None` if a signal came first. An ingest that a signal ends is repeated by the
    /// next run.
    pub(super) async fn prepare(
        &self,
        examined: ExaminedInputs,
        shutdown: &mut Shutdown,
    ) -> Result<Option<StoredInputs>, RenderError> {
        let Some(spec) = manifest::read(self.folder.path())? else {
            let stop = shutdown.clone();
            return tokio::select! {
                // The store ends with an error of its own when it is interrupted.
                biased;
                () = shutdown.reached(Phase::Draining) => Ok(None),
                stored = StoredInputs::store(self.farm, self.preflight, examined, self.observer, stop) => {
                    stored.map(Some)
                }
            };
        };
        self.observer.send(RenderEvent::Resuming {
            folder: self.folder.path().to_owned(),
        });
        StoredInputs::read(self.farm, spec, examined).await.map(Some)
    }

    /// Starts this machine's workers, runs the dispatcher, cuts the video beside it, and stops the workers.
    /// Returns `None` if a second signal ended the dispatcher.
    pub(super) async fn dispatch(
        &self,
        inputs: StoredInputs,
        local: &mut LocalFarm,
        shutdown: Shutdown,
    ) -> Result<Option<Dispatched>, RenderError> {
        local.start_workers(
            &self.preflight.worker,
            &self.preflight.settings.weights,
            &self.folder.scratch(),
        )?;
        let dispatched = Box::pin(self.run_dispatcher(inputs, local, shutdown)).await;
        local.stop_workers().await;
        match dispatched? {
            Some(dispatched) if matches!(dispatched.end.ending, Ending::Interrupted { .. }) => {
                dispatched.lease.release().await;
                Ok(None)
            }
            dispatched => Ok(dispatched),
        }
    }

    /// Runs the dispatcher until the job has ended, and the cut of the video beside it. Forwards the events
    /// of both and those of this machine's processes, and drains the workers on the first signal. Returns
    /// `None` on the second signal. A video that cannot be cut to its end ends the job.
    async fn run_dispatcher(
        &self,
        inputs: StoredInputs,
        local: &mut LocalFarm,
        mut shutdown: Shutdown,
    ) -> Result<Option<Dispatched>, RenderError> {
        let mut dispatch = DispatchSettings::new(self.folder.path().to_owned(), self.preflight.needs);
        dispatch.job.allow_no_face = self.preflight.settings.allow_no_face;
        dispatch.job.cpu_fallback = self.preflight.settings.cpu_fallback;
        dispatch.job.one_kind = self.preflight.settings.one_kind;
        dispatch.job.needed_tags = self.preflight.settings.needed_tags.clone();
        dispatch.job.unplaceable_wait = self.preflight.settings.unplaceable_wait;
        dispatch.job.start_worker = self.start_worker(local);
        // The server belongs to the job folder, which this process has locked, so no other coordinator can be
        // alive and the lease may be taken at once.
        dispatch.farm.contention = Contention::Seize;
        let StoredInputs {
            spec,
            timeline,
            video,
        } = inputs;
        let (news, video_news) = mpsc::unbounded_channel();
        let cut = VideoCut {
            farm: self.farm.clone(),
            job: spec.clone(),
            audio_windows: timeline.audio.len(),
            observer: self.observer.clone(),
            news: news.clone(),
        };
        let mut cut = Box::pin(cut.run(video, shutdown.clone()));
        let (mut is_cutting, mut cut_failure) = (true, None);
        let (job_observer, mut job_events) = mpsc::unbounded_channel();
        let reader = SegmentReader::new(&self.farm.store, self.folder.scratch());
        let stop = shutdown.clone();
        self.observer
            .send(RenderEvent::DispatchBegins { frames: spec.frames });
        let planned = PlannedJob {
            spec,
            timeline,
            video: video_news,
        };
        let job = dispatch::run_job(self.farm, planned, dispatch, reader, job_observer, stop);
        tokio::pin!(job);
        let mut resumed_chunks = 0;
        let mut forward = |event: JobEvent| {
            if let JobEvent::Resumed { records } = &event {
                resumed_chunks = *records;
            }
            self.observer.send(RenderEvent::Job(Box::new(event)));
        };
        let mut draining = false;
        let mut stopping = shutdown.clone();
        let mut room_checks = tokio::time::interval(ROOM_INTERVAL);
        room_checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let result = loop {
            tokio::select! {
                result = &mut job => break result,
                Some(event) = job_events.recv() => forward(event),
                ended = &mut cut, if is_cutting => {
                    is_cutting = false;
                    if let Err(error) = ended {
                        // The dispatcher removes the job's tasks from the farm, and ends.
                        let reason = one_line(&error);
                        let _already_ended = news.send(VideoNews::Failed { reason });
                        cut_failure = Some(error);
                    }
                }
                _ = room_checks.tick() => self.ensure_room()?,
                Some(notice) = local.next_notice() => {
                    self.observer.send(RenderEvent::Local(notice.clone()));
                    local.handle_notice(&notice)?;
                }
                () = shutdown.reached(Phase::Draining), if !draining => {
                    draining = true;
                    self.observer.send(RenderEvent::Draining);
                    local.drain_workers();
                }
                () = stopping.reached(Phase::Stopping), if draining => return Ok(None),
            }
        };
        // Events that the dispatcher sent just before it ended are forwarded too.
        while let Ok(event) = job_events.try_recv() {
            forward(event);
        }
        let OnlyJob { end, lease } = result?;
        if let Some(error) = cut_failure {
            lease.release().await;
            return Err(error);
        }
        Ok(Some(Dispatched {
            end,
            lease,
            resumed_chunks,
        }))
    }

    /// Returns where the workers write why they do not join.
    fn start_worker(&self, local: &LocalFarm) -> String {
        let scratch = self.folder.scratch();
        let log = |worker: &WorkerId| format!("`{}`", scratch.join(format!("{worker}.log")).display());
        let logs: Vec<String> = local.worker_ids().map(log).collect();
        format!("the workers of this machine write to {}", logs.join(", "))
    }

    /// Ends the job before its disk is full: nats-server and the workers would fail in ways that name no cause.
    fn ensure_room(&self) -> Result<(), RenderError> {
        let path = self.folder.path();
        match Volume::of(path) {
            Some(volume) if volume.free_bytes < RESERVED_BYTES => Err(RenderError::DiskFull {
                path: path.to_owned(),
                free_bytes: volume.free_bytes,
                need_bytes: self.preflight.estimate.disk_bytes,
            }),
            _ => Ok(()),
        }
    }

    /// Writes the output of a complete job, and releases the lease. Only a whole, verified file appears under
    /// the output's name.
    pub(super) async fn finish(
        &self,
        spec: JobSpec,
        dispatched: Dispatched,
    ) -> Result<RenderReport, RenderError> {
        let Dispatched {
            end,
            lease,
            resumed_chunks,
        } = dispatched;
        let written = if end.ending == Ending::Complete {
            Some(self.write(&spec, &end.records, &lease).await?)
        } else {
            None
        };
        let elapsed = self.preflight.started.elapsed();
        lease.release().await;
        Ok(RenderReport {
            ending: end.ending,
            spec,
            job: end.report,
            written,
            elapsed,
            resumed_chunks,
        })
    }

    /// Joins and verifies the segments, and renames the file if the lease is still held.
    async fn write(
        &self,
        spec: &JobSpec,
        records: &[Arc<DoneRecord>],
        lease: &Lease,
    ) -> Result<Written, RenderError> {
        let settings = &self.preflight.settings;
        let join = Join {
            farm: self.farm,
            spec,
            records,
            scratch: &self.folder.scratch(),
            target: &settings.target,
            keeps_tail: settings.ingest.keep_tail,
        };
        let assembled = join.assemble(self.observer).await?;
        lease.held().await.map_err(|_lost| RenderError::LeaseLost)?;
        join.commit(assembled).await
    }
}
