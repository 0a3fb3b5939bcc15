//! Estimates memory needs and speeds from finished tasks. The estimates are kept in the farm's key-value
//! bucket, so that the next job and the next coordinator start with them. The dispatcher reads them when a
//! job begins, and adds an observation for each attempt that finished or ran out of memory.
//!
//! A key stands for one kind of device, checkpoint, resolution and guidance. Only the coordinator that holds
//! the lease writes, by compare-and-set, so that a late write of a coordinator that was replaced is dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::kv;
use latentfarm_common::error::one_line;
use latentfarm_common::memory_estimate::{add_observation, same_need};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::topology::NEEDS_BUCKET;
use latentfarm_common::wire;
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::memory::{DeviceKind, MemoryObservation, ObservedNeed, OutOfMemory};
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, LearnedNeeds};
use tokio::time::Instant;

use crate::placement::JobNeeds;

/// The least time between two writes, except for the last.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);
/// The weight of a new observation in the running mean of the time for a frame.
const NEW_RATE_WEIGHT: f64 = 0.3;

/// The estimates for the models of the farm's jobs.
#[derive(Debug, Default)]
pub(super) struct NeedEstimator {
    entries: BTreeMap<String, CachedNeeds>,
    written_at: Option<Instant>,
}

/// The estimates of one key, and their relation to the stored value.
#[derive(Debug, Default)]
struct CachedNeeds {
    content: LearnedNeeds,
    /// The revision of the stored value; 0 if none is stored.
    revision: u64,
    /// Whether the content is newer than the stored value.
    changed: bool,
}

/// The key of a model on a kind of device: `<kind>.<weights>.<px>.<cfg|plain>`.
fn key(model: &ModelSpec, kind: DeviceKind) -> String {
    let weights = model.weights.to_string();
    let guidance = if model.is_guided() { "cfg" } else { "plain" };
    format!("{kind}.{}.{}.{guidance}", &weights[..16], model.resolution_px)
}

impl NeedEstimator {
    /// Reads the estimates for a model unless they were read already. If the farm's bucket cannot be read,
    /// the model starts without estimates.
    pub(super) async fn read(&mut self, connection: &Connection, model: &ModelSpec) {
        let keys = [DeviceKind::Cpu, DeviceKind::Cuda].map(|kind| key(model, kind));
        let unread = keys.into_iter().filter(|key| !self.entries.contains_key(key));
        for key in unread.collect::<Vec<_>>() {
            let entry = match read(connection, &key).await {
                Ok(entry) => entry,
                Err(error) => {
                    let error = one_line(error.as_ref());
                    tracing::warn!(
                        key,
                        error,
                        "cannot read the estimated memory needs: the job starts without them"
                    );
                    CachedNeeds::default()
                }
            };
            self.entries.insert(key, entry);
        }
    }

    /// The observations of the model's memory needs on a kind of device.
    pub(super) fn observations(&self, model: &ModelSpec, kind: DeviceKind) -> &[MemoryObservation] {
        let entry = self.entries.get(&key(model, kind));
        entry.map_or(&[], |entry| &entry.content.observations)
    }

    /// The milliseconds that one worker takes for a frame; `None` before the first result.
    pub(super) fn frame_ms(&self, model: &ModelSpec, kind: DeviceKind) -> Option<f64> {
        self.entries.get(&key(model, kind))?.content.frame_ms
    }

    /// Adds the memory and the time that a verified result took.
    pub(super) fn observe_done(&mut self, model: &ModelSpec, record: &DoneRecord) {
        let (DoneBody::Render { synced, .. }, Some(used)) = (&record.body, &record.memory) else {
            return;
        };
        let entry = self.entries.entry(key(model, used.kind)).or_default();
        if used.peak_mib > 0 {
            let (plan, need) = (used.plan, ObservedNeed::Peak(used.peak_mib));
            entry.observe(MemoryObservation { plan, need });
        }
        let ms = record.timings.engine_ms + record.timings.media_wait_ms;
        if ms > 0 && *synced > 0 {
            let frame_ms = ms as f64 / f64::from(*synced);
            let known = entry.content.frame_ms.unwrap_or(frame_ms);
            entry.content.frame_ms = Some(known + NEW_RATE_WEIGHT * (frame_ms - known));
            entry.changed = true;
        }
    }

    /// Adds the lower bound of the need that an attempt showed by running out of memory. A suspicion shows
    /// none.
    pub(super) fn observe_oom(&mut self, model: &ModelSpec, predicted: &JobNeeds, oom: &OutOfMemory) {
        let Some(mib) = oom.needed_at_least_mib.filter(|_| !oom.suspected) else {
            return;
        };
        let need = ObservedNeed::MoreThan(mib);
        let plan = predicted
            .of(oom.kind)
            .map_or(oom.plan, |needs| same_need(needs, oom.plan));
        let entry = self.entries.entry(key(model, oom.kind)).or_default();
        entry.observe(MemoryObservation { plan, need });
    }

    /// Writes the estimates that changed, if the last write is long enough ago or this is the `last` one. A
    /// failure is only logged.
    pub(super) async fn write(&mut self, connection: &Connection, last: bool) {
        let is_due = self.written_at.is_none_or(|at| at.elapsed() >= WRITE_INTERVAL);
        if !self.entries.values().any(|entry| entry.changed) || !(is_due || last) {
            return;
        }
        self.written_at = Some(Instant::now());
        let Ok(bucket) = connection.context.get_key_value(NEEDS_BUCKET).await else {
            tracing::debug!("cannot open the bucket of estimated memory needs");
            return;
        };
        for (key, entry) in &mut self.entries {
            if std::mem::take(&mut entry.changed) {
                entry.write(&bucket, key).await;
            }
        }
    }
}

impl CachedNeeds {
    fn observe(&mut self, observation: MemoryObservation) {
        add_observation(&mut self.content.observations, observation);
        self.changed = true;
    }

    async fn write(&mut self, bucket: &kv::Store, key: &str) {
        let Ok(bytes) = wire::encode(&self.content) else {
            return;
        };
        match bucket.update(key, bytes.into(), self.revision).await {
            Ok(revision) => self.revision = revision,
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                // The stored value comes from an own write whose answer was lost, or from another
                // coordinator. The next write of the coordinator that holds the lease replaces it.
                if let Ok(Some(stored)) = bucket.entry(key).await {
                    self.revision = stored.revision;
                    self.changed = true;
                }
            }
            Err(error) => {
                tracing::debug!(
                    key,
                    error = one_line(&error),
                    "cannot store the estimated memory needs, trying again"
                );
                self.changed = true;
            }
        }
    }
}

async fn read(connection: &Connection, key: &str) -> Result<CachedNeeds, async_nats::Error> {
    let bucket = connection.context.get_key_value(NEEDS_BUCKET).await?;
    let Some(stored) = bucket.entry(key).await? else {
        return Ok(CachedNeeds::default());
    };
    // A value of another release cannot be decoded, and is estimated again.
    let content = wire::decode(&stored.value).unwrap_or_default();
    Ok(CachedNeeds {
        content,
        revision: stored.revision,
        changed: false,
    })
}
