//! The phases of a render on a connected farm, each called once and in this order by `RenderJob::run`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::lease::Contention;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::error::RenderError;
use super::event::{Observer, RenderEvent};
use super::finish;
use super::preflight::Preflight;
use super::report::{RenderReport, Written};
use crate::dispatch::{self, Check, DispatchSettings, Ending, Farm, JobEvent, JobResult};
use crate::ingest::{BlobSink, Examined};
use crate::job::folder::JobFolder;
use crate::job::store;
use crate::local::LocalFarm;
use crate::stitch;

/// What all phases of one run look at.
pub(super) struct Run<'a> {
    pub(super) preflight: &'a Preflight,
    pub(super) folder: &'a JobFolder,
    pub(super) farm: &'a Farm,
    pub(super) observer: &'a Observer,
}

/// A job that the dispatcher is through with.
pub(super) struct Dispatched {
    result: JobResult,
    /// Chunks that an earlier run had finished.
    resumed_chunks: usize,
}

impl Run<'_> {
    /// The manifest and timeline of the job: those of an earlier run, or new ones. `None` if a signal came first:
    /// nothing is lost with an ingest that is broken off, as the next run does it again.
    pub(super) async fn prepare(
        &self,
        examined: Examined,
        shutdown: &mut Shutdown,
    ) -> Result<Option<(JobSpec, Timeline)>, RenderError> {
        let Some(spec) = store::read(self.folder.path())? else {
            return tokio::select! {
                () = shutdown.reached(Phase::Draining) => Ok(None),
                ingested = self.ingest(examined) => ingested.map(Some),
            };
        };
        self.observer.send(RenderEvent::Resuming {
            folder: self.folder.path().to_owned(),
        });
        let timeline = wire::decode(&self.farm.store.get_bytes(&spec.timeline).await?)?;
        Ok(Some((spec, timeline)))
    }

    /// Cuts the video and stores segments, speech and timeline.
    async fn ingest(&self, examined: Examined) -> Result<(JobSpec, Timeline), RenderError> {
        self.observer.send(RenderEvent::IngestBegins {
            source_frames: examined.table.sources,
        });
        let known = examined.notes();
        let mut sink = StoreSink(self.farm.store.clone());
        let observer = self.observer.clone();
        let work = move || examined.store(&mut sink, &mut |step| observer.send(RenderEvent::Ingest(step)));
        let ingested = spawn_blocking(work).await??;
        // The caller was given the others before the work began.
        for note in ingested.notes.iter().filter(|note| !known.contains(note)) {
            self.observer.send(RenderEvent::Note(note.clone()));
        }
        let timeline = self
            .farm
            .store
            .put_bytes(wire::encode(&ingested.timeline)?)
            .await?;
        self.observer.send(RenderEvent::Ingested {
            source_frames: ingested.source.frames,
            segments: ingested.timeline.segments.len(),
            audio_windows: ingested.timeline.audio.len(),
            frames: ingested.frames,
        });
        let spec = self.preflight.manifest(&ingested, timeline);
        Ok((spec, ingested.timeline))
    }

    /// Runs the dispatcher beside this machine's workers, which are gone when this returns. `None` if a signal ended
    /// it.
    pub(super) async fn dispatch(
        &self,
        spec: &JobSpec,
        timeline: Timeline,
        mut local: Option<&mut LocalFarm>,
        shutdown: Shutdown,
    ) -> Result<Option<Dispatched>, RenderError> {
        if let Some(local) = &mut local {
            local.start_workers(
                &self.preflight.worker,
                &self.preflight.settings.weights,
                &self.folder.scratch(),
            )?;
        }
        let dispatched = self.watch(spec, timeline, local.as_deref_mut(), shutdown).await;
        if let Some(local) = local {
            local.stop_workers().await;
        }
        match dispatched? {
            Some(dispatched) if matches!(dispatched.result.ending, Ending::Interrupted { .. }) => {
                dispatched.result.lease.release().await;
                Ok(None)
            }
            dispatched => Ok(dispatched),
        }
    }

    async fn watch(
        &self,
        spec: &JobSpec,
        timeline: Timeline,
        mut local: Option<&mut LocalFarm>,
        mut shutdown: Shutdown,
    ) -> Result<Option<Dispatched>, RenderError> {
        let mut dispatch = DispatchSettings::new(self.folder.path().to_owned(), self.preflight.needs);
        dispatch.job.allow_no_face = self.preflight.settings.allow_no_face;
        dispatch.job.cpu_fallback = self.preflight.settings.cpu_fallback;
        dispatch.job.unplaceable_wait = self.preflight.settings.unplaceable_wait;
        if local.is_some() {
            // The job folder's lock covers the private server: no other coordinator can be alive.
            dispatch.farm.contention = Contention::Seize;
        }
        let (job_observer, mut job_events) = mpsc::unbounded_channel();
        let check = segment_check(&self.farm.store, self.folder);
        let stop = shutdown.clone();
        let job = dispatch::run_job(
            self.farm,
            spec.clone(),
            timeline,
            dispatch,
            check,
            job_observer,
            stop,
        );
        tokio::pin!(job);
        self.observer
            .send(RenderEvent::DispatchBegins { frames: spec.frames });
        let mut resumed_chunks = 0;
        let mut pass_on = |event: JobEvent| {
            if let JobEvent::Resumed { records } = &event {
                resumed_chunks = *records;
            }
            self.observer.send(RenderEvent::Job(Box::new(event)));
        };
        let mut draining = false;
        let mut stopping = shutdown.clone();
        let result = loop {
            tokio::select! {
                result = &mut job => break result,
                Some(event) = job_events.recv() => pass_on(event),
                Some(notice) = async { local.as_mut()?.next_notice().await } => {
                    self.observer.send(RenderEvent::Local(notice.clone()));
                    if let Some(local) = &mut local {
                        local.take(&notice)?;
                    }
                }
                () = shutdown.reached(Phase::Draining), if !draining => {
                    draining = true;
                    self.observer.send(RenderEvent::Draining);
                    if let Some(local) = &local {
                        local.drain_workers();
                    }
                }
                () = stopping.reached(Phase::Stopping), if draining => return Ok(None),
            }
        };
        // What the dispatcher sent last is passed on too.
        while let Ok(event) = job_events.try_recv() {
            pass_on(event);
        }
        Ok(Some(Dispatched {
            result: result?,
            resumed_chunks,
        }))
    }

    /// Stitches a complete job. Nothing appears under the output's name but a whole, verified file.
    pub(super) async fn finish(
        &self,
        spec: JobSpec,
        dispatched: Dispatched,
    ) -> Result<RenderReport, RenderError> {
        let Dispatched {
            result,
            resumed_chunks,
        } = dispatched;
        let written = if result.ending == Ending::Complete {
            Some(self.write(&spec, &result).await?)
        } else {
            None
        };
        let elapsed = self.preflight.started.elapsed();
        result.lease.release().await;
        Ok(RenderReport {
            ending: result.ending,
            spec,
            job: result.report,
            written,
            elapsed,
            resumed_chunks,
        })
    }

    /// Joins and verifies the segments and gives the file its name, if the lease is still held.
    async fn write(&self, spec: &JobSpec, result: &JobResult) -> Result<Written, RenderError> {
        let records = &result.records;
        let mut segments = Vec::with_capacity(records.len());
        for record in records {
            let range = finish::range_of(spec, record);
            let path = self
                .farm
                .store
                .local_file(&record.artifact, &self.folder.scratch())
                .await?;
            segments.push((range, path, record.artifact));
        }
        let request = finish::stitch_request(spec, records, segments, &self.preflight.settings);
        self.observer
            .send(RenderEvent::StitchBegins { frames: spec.frames });
        let observer = self.observer.clone();
        let work = move || stitch::assemble(&request, &mut |step| observer.send(RenderEvent::Stitch(step)));
        let assembled = spawn_blocking(work).await?.map_err(RenderError::Stitch)?;
        if !result.lease.is_held() {
            return Err(RenderError::LeaseLost);
        }
        let named = spawn_blocking(move || assembled.commit()).await?;
        Ok(Written {
            path: self.preflight.settings.target.path().to_owned(),
            frames_digest: finish::frames_digest(records),
            sound: named.map_err(RenderError::Name)?.sound.to_string(),
        })
    }
}

/// Verifies a render record's segment before it counts: its digest, and every decoded frame.
fn segment_check(store: &Store, folder: &JobFolder) -> Check {
    let (store, scratch) = (store.clone(), folder.scratch());
    let runtime = Handle::current();
    // Called on a thread of its own, where waiting for the store blocks nobody.
    Arc::new(move |record: &DoneRecord, range| {
        let path = runtime
            .block_on(store.local_file(&record.artifact, &scratch))
            .map_err(|error| one_line(&error))?;
        stitch::check_segment(&path, &record.artifact, range)
            .map(|_info| ())
            .map_err(|error| one_line(&error))
    })
}

/// Lets ingest put blobs into the store. It is used on a thread of the runtime for blocking work.
struct StoreSink(Store);

impl BlobSink for StoreSink {
    fn put_file(&mut self, path: &Path) -> io::Result<BlobRef> {
        let stored = Handle::current().block_on(self.0.put_file(path));
        stored.map_err(io::Error::other)
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<BlobRef> {
        let stored = Handle::current().block_on(self.0.put_bytes(bytes.to_vec()));
        stored.map_err(io::Error::other)
    }
}
