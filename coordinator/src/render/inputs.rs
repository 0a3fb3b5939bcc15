//! The inputs of a job on the farm: its sound, speech and timeline, which are stored before it is dispatched, and
//! its video, which is cut beside that.

use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::wire;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use tokio::task::spawn_blocking;

use super::error::RenderError;
use super::event::{Observer, RenderEvent};
use super::preflight::Preflight;
use super::store_sink::StoreSink;
use crate::dispatch::Farm;
use crate::ingest::{ExaminedInputs, SourceVideo};

/// A job whose sound, speech and timeline are stored, and the video that is still to be cut for it.
pub(crate) struct StoredInputs {
    pub(crate) spec: JobSpec,
    pub(crate) timeline: Timeline,
    pub(crate) video: SourceVideo,
}

impl StoredInputs {
    /// Stores sound, speech and timeline.
    pub(crate) async fn store(
        farm: &Farm,
        preflight: &Preflight,
        examined: ExaminedInputs,
        observer: &Observer,
        shutdown: Shutdown,
    ) -> Result<Self, RenderError> {
        observer.send(RenderEvent::IngestBegins {
            source_frames: examined.cut_frames,
        });
        let (mut sink, _stop) = StoreSink::new(farm, shutdown);
        let (ingested, video) = spawn_blocking(move || examined.store(&mut sink)).await??;
        let timeline = farm.store.put_bytes(wire::encode(&ingested.timeline)?).await?;
        Ok(Self {
            spec: preflight.manifest(&ingested, timeline),
            timeline: ingested.timeline,
            video,
        })
    }

    /// Reads what an earlier run has stored of the job with this manifest.
    pub(crate) async fn read(
        farm: &Farm,
        spec: JobSpec,
        examined: ExaminedInputs,
    ) -> Result<Self, RenderError> {
        let timeline = wire::decode(&farm.store.get_bytes(&spec.timeline).await?)?;
        Ok(Self {
            spec,
            timeline,
            video: examined.into_video(),
        })
    }
}
