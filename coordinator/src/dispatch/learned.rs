//! What tasks showed of needs and rates, kept in the farm's key-value bucket, so that the next job and the next
//! coordinator start with it. The dispatcher reads it when a job begins, and notes what each attempt showed.
//!
//! A key stands for one kind of device, checkpoint, resolution and guidance. The coordinator writes, under its
//! lease, and by compare-and-set: what one that was replaced still has to write is dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::kv;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::topology::NEEDS_BUCKET;
use latentfarm_common::needs::{note, same_need};
use latentfarm_common::wire;
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::memory::{DeviceKind, MemoryObservation, ObservedNeed, OutOfMemory};
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, LearnedNeeds};
use tokio::time::Instant;

use crate::placement::JobNeeds;

/// Writes are at least so far apart, but for the last.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// Weight of a new rate against what was known.
const NEW_RATE: f64 = 0.3;

/// What was learned of the models of the farm's jobs.
#[derive(Debug, Default)]
pub(super) struct NeedEstimator {
    entries: BTreeMap<String, Entry>,
    written_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Entry {
    content: LearnedNeeds,
    /// Revision of the stored value; 0 if none is stored.
    revision: u64,
    changed: bool,
}

/// `<kind>.<weights>.<px>.<cfg|plain>`
fn key(model: &ModelSpec, kind: DeviceKind) -> String {
    let weights = model.weights.to_string();
    let guidance = if model.is_guided() { "cfg" } else { "plain" };
    format!("{kind}.{}.{}.{guidance}", &weights[..16], model.resolution_px)
}

impl NeedEstimator {
    /// Reads what is known of a model, unless it was read already. If the farm's bucket cannot be read, nothing is
    /// known.
    pub(super) async fn read(&mut self, connection: &Connection, model: &ModelSpec) {
        let keys = [DeviceKind::Cpu, DeviceKind::Cuda].map(|kind| key(model, kind));
        let unread = keys.into_iter().filter(|key| !self.entries.contains_key(key));
        for key in unread.collect::<Vec<_>>() {
            let entry = match read(connection, &key).await {
                Ok(entry) => entry,
                Err(error) => {
                    let error = one_line(error.as_ref());
                    tracing::warn!(key, error, "cannot read what was learned of memory needs");
                    Entry::default()
                }
            };
            self.entries.insert(key, entry);
        }
    }

    /// What tasks of the model showed of its needs on a kind of device.
    pub(super) fn observations(&self, model: &ModelSpec, kind: DeviceKind) -> &[MemoryObservation] {
        let entry = self.entries.get(&key(model, kind));
        entry.map_or(&[], |entry| &entry.content.observations)
    }

    /// Milliseconds of one worker for a frame, if observed.
    pub(super) fn frame_ms(&self, model: &ModelSpec, kind: DeviceKind) -> Option<f64> {
        self.entries.get(&key(model, kind))?.content.frame_ms
    }

    /// Notes what a verified result took, and how long.
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
            entry.content.frame_ms = Some(known + NEW_RATE * (frame_ms - known));
            entry.changed = true;
        }
    }

    /// Notes the lower bound that an attempt showed which ran out of memory; a suspicion shows none.
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

    /// Writes what changed, not too often unless it is the `last` time. Failing costs no more than knowledge.
    pub(super) async fn write(&mut self, connection: &Connection, last: bool) {
        let is_due = self.written_at.is_none_or(|at| at.elapsed() >= WRITE_EVERY);
        if !self.entries.values().any(|entry| entry.changed) || !(is_due || last) {
            return;
        }
        self.written_at = Some(Instant::now());
        let Ok(bucket) = connection.context.get_key_value(NEEDS_BUCKET).await else {
            tracing::debug!("the bucket of learned needs does not answer");
            return;
        };
        for (key, entry) in &mut self.entries {
            if std::mem::take(&mut entry.changed) {
                entry.write(&bucket, key).await;
            }
        }
    }
}

impl Entry {
    fn observe(&mut self, observation: MemoryObservation) {
        note(&mut self.content.observations, observation);
        self.changed = true;
    }

    async fn write(&mut self, bucket: &kv::Store, key: &str) {
        let Ok(bytes) = wire::encode(&self.content) else {
            return;
        };
        match bucket.update(key, bytes.into(), self.revision).await {
            Ok(revision) => self.revision = revision,
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                // An own write whose answer was lost, or another coordinator's. Who holds the lease goes on from
                // what is stored next time.
                if let Ok(Some(stored)) = bucket.entry(key).await {
                    self.revision = stored.revision;
                    self.changed = true;
                }
            }
            Err(error) => {
                tracing::debug!(key, error = one_line(&error), "cannot keep learned needs yet");
                self.changed = true;
            }
        }
    }
}

async fn read(connection: &Connection, key: &str) -> Result<Entry, async_nats::Error> {
    let bucket = connection.context.get_key_value(NEEDS_BUCKET).await?;
    let Some(stored) = bucket.entry(key).await? else {
        return Ok(Entry::default());
    };
    // A value of another release is learned anew.
    let content = wire::decode(&stored.value).unwrap_or_default();
    Ok(Entry {
        content,
        revision: stored.revision,
        changed: false,
    })
}
