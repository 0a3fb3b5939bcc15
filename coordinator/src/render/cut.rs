//! Cuts the source video beside the dispatcher: each segment is stored, then recorded on the farm, then
//! handed to the dispatcher. A render that is resumed begins with the records of the earlier run. If they end
//! with the end of the video, nothing is cut; otherwise the video is cut from its start, because later
//! segments depend on earlier ones, and the records that exist count.

use std::io;
use std::panic::resume_unwind;
use std::thread;

use latentfarm_common::blob::Store;
use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::wire::job::{CutRecord, JobSpec};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::error::RenderError;
use super::event::{Observer, RenderEvent};
use super::store_sink::StoreSink;
use crate::dispatch::Farm;
use crate::ingest::{IngestError, SourceVideo, defects};
use crate::job::segment_log::{SegmentLog, SegmentLogError};
use crate::job::segments::{Segments, VideoNews};

/// The threads that cut and check the video yield to the workers of the same machine by this much. When the
/// workers wait for segments, the threads have all cores all the same.
const NICENESS: i32 = 10;

/// What the cut of a job's video needs of the render.
pub(crate) struct VideoCut {
    pub(crate) farm: Farm,
    pub(crate) job: JobSpec,
    pub(crate) audio_windows: usize,
    pub(crate) observer: Observer,
    /// The dispatcher's end of it.
    pub(crate) news: mpsc::UnboundedSender<VideoNews>,
}

impl VideoCut {
    /// Cuts the video to its end, or until a signal comes or the future is dropped.
    ///
    /// # Errors
    /// [`RenderError::Ingest`] if the video cannot be cut to its end; other errors if the farm or this
    /// machine fails.
    pub(crate) async fn run(self, video: SourceVideo, shutdown: Shutdown) -> Result<(), RenderError> {
        let log = SegmentLog::open(&self.farm.connection, self.job.id).await?;
        let mut segments = Segments::new(self.job.source.frames);
        for record in log.list().await? {
            // Blobs of an old job may have been removed from the farm; they are made again.
            if !is_stored(&self.farm.store, &record).await || segments.add(&record).is_err() {
                break;
            }
            self.send(record);
        }
        if segments.is_complete() {
            return Ok(());
        }
        let (sink, _stop) = StoreSink::new(&self.farm, shutdown);
        let sink = sink.reporting_to(self.news.clone());
        let stop = sink.clone();
        let cutting = move || {
            let recorder = Recorder {
                cut: self,
                log,
                segments,
                sink,
            };
            let thread = thread::Builder::new().name("cut video".to_owned());
            let thread = thread.spawn(move || {
                // Without it the workers are a little slower. The threads that check segments inherit it.
                let _refused = rustix::process::nice(NICENESS);
                recorder.cut(&video)
            });
            let joined = thread.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            joined
                .map_err(RenderError::CutThread)?
                .map_err(RenderError::Ingest)
        };
        match spawn_blocking(cutting).await? {
            // The error is that of the interruption.
            Err(_) if !stop.is_running() => Ok(()),
            ended => ended,
        }
    }

    fn send(&self, record: CutRecord) {
        // The dispatcher may have ended.
        let _no_receiver = self.news.send(VideoNews::Recorded(record));
    }
}

async fn is_stored(store: &Store, record: &CutRecord) -> bool {
    match record {
        CutRecord::Segment(segment) => store.check(&segment.entry.blob).await.is_ok(),
        CutRecord::End => true,
    }
}

/// The cut of a video on its own thread.
struct Recorder {
    cut: VideoCut,
    log: SegmentLog,
    /// What has been recorded.
    segments: Segments,
    sink: StoreSink,
}

impl Recorder {
    fn cut(mut self, video: &SourceVideo) -> Result<(), IngestError> {
        let needed = self.segments.needed();
        self.progress();
        let (mut sink, stop) = (self.sink.clone(), self.sink.clone());
        let keep_on = || stop.ensure_running();
        video.cut(self.segments.covered(), &keep_on, &mut sink, &mut |segment| {
            let record = self.record(&CutRecord::Segment(segment))?;
            self.progress();
            self.cut.send(record);
            Ok(())
        })?;
        let end = self
            .record(&CutRecord::End)
            .map_err(|source| IngestError::Record { source })?;
        let observer = &self.cut.observer;
        let (reencoded, segments) = (self.segments.reencoded(), self.segments.entries().len());
        if reencoded > 0 {
            observer.send(RenderEvent::Note(format!(
                "{reencoded} of {segments} source segments were re-encoded without loss, because the video has no \
                 keyframe where they begin"
            )));
        }
        for sentence in defects::sentences(self.segments.defects()) {
            observer.send(RenderEvent::Note(sentence));
        }
        observer.send(RenderEvent::Ingested {
            source_frames: needed,
            segments,
            audio_windows: self.cut.audio_windows,
            frames: self.cut.job.frames,
        });
        self.cut.send(end);
        Ok(())
    }

    /// Writes the next record. Returns the one that counts.
    fn record(&mut self, record: &CutRecord) -> io::Result<CutRecord> {
        let number = self.segments.entries().len() as u64;
        let log = &self.log;
        let written = self
            .sink
            .persist(SegmentLogError::is_transient, &async |_farm: &Farm| {
                log.append(number, record).await
            })?;
        self.segments.add(&written).map_err(io::Error::other)?;
        Ok(written)
    }

    fn progress(&self) {
        self.cut.observer.send(RenderEvent::IngestProgress {
            source_frames: self.segments.covered(),
            of: self.segments.needed(),
        });
    }
}
