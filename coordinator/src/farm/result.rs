//! What the farm has stored of a complete job: everything that its output is joined from.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use latentfarm_common::ids::{JobId, WorkKind};
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::outcome::DoneRecord;

use crate::dispatch::{Farm, FarmError};
use crate::job::manifest;
use crate::render::RenderError;

/// How many blobs are looked up at once.
const AT_ONCE: usize = 16;

/// The manifest of a complete job, and the records of its rendered chunks in the order of their frames.
pub(super) struct StoredResult {
    pub(super) spec: JobSpec,
    pub(super) records: Vec<Arc<DoneRecord>>,
}

/// Reads the records of a complete job; `None` if any of them is gone.
pub(super) async fn read(farm: &Farm, job: JobId) -> Result<Option<StoredResult>, RenderError> {
    let Some(spec) = manifest::read_from_farm(&farm.connection, job).await? else {
        return Ok(None);
    };
    let entries = DoneLog::new(&farm.connection).list(job).await;
    let entries = entries.map_err(FarmError::Streams)?;
    let records = entries.into_iter().filter_map(|entry| entry.record.ok());
    let mut records: Vec<Arc<DoneRecord>> = records
        .filter(|record| record.chunk.work == WorkKind::Render)
        .map(Arc::new)
        .collect();
    records.sort_by_key(|record| record.chunk.index);
    let chunks = spec.frames.div_ceil(u64::from(spec.chunk_frames.max(1)));
    let is_whole = records.len() as u64 == chunks;
    Ok(is_whole.then_some(StoredResult { spec, records }))
}

/// Whether everything is there that the output of a complete job is joined from. Contents are not read.
pub(super) async fn is_there(farm: &Farm, job: JobId) -> Result<bool, RenderError> {
    let Some(StoredResult { spec, records }) = read(farm, job).await? else {
        return Ok(false);
    };
    let segments = records.iter().map(|record| record.artifact);
    let found = stream::iter(segments.chain([spec.sound.blob]))
        .map(async |blob| farm.store.has(&blob).await)
        .buffer_unordered(AT_ONCE);
    Ok(found.try_all(async |is_there| is_there).await?)
}
