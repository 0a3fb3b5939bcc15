//! What tasks showed of needs and rates, kept in the farm's key-value bucket, so that the next job and the next
//! coordinator start with it.
//!
//! A key stands for one kind of device, checkpoint, resolution and guidance. The coordinator writes, under its
//! lease, and by compare-and-set: what one that was replaced still has to say is dropped.

use std::time::Duration;

use async_nats::jetstream::kv;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::topology::NEEDS_BUCKET;
use latentfarm_common::needs::{Observation, note};
use latentfarm_common::wire;
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::memory::DeviceKind;
use latentfarm_common::wire::outcome::LearnedNeeds;
use tokio::time::Instant;

/// Writes are at least so far apart, but for the last.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// Weight of a new rate against what was known.
const NEW_RATE: f64 = 0.3;

/// What was learned for one job's model, by kind of device.
#[derive(Debug)]
pub struct Learned {
    model: ModelSpec,
    cpu: Shelf,
    cuda: Shelf,
    written_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shelf {
    content: LearnedNeeds,
    /// Of the stored value; 0: none is stored.
    revision: u64,
    changed: bool,
}

impl Learned {
    /// Reads what is known. A farm whose bucket cannot be read starts with nothing.
    pub async fn read(connection: &Connection, model: &ModelSpec) -> Self {
        let mut learned = Self {
            model: model.clone(),
            cpu: Shelf::default(),
            cuda: Shelf::default(),
            written_at: None,
        };
        let bucket = match connection.context.get_key_value(NEEDS_BUCKET).await {
            Ok(bucket) => bucket,
            Err(error) => {
                tracing::warn!(
                    error = one_line(&error),
                    "cannot read what was learned of memory needs"
                );
                return learned;
            }
        };
        for kind in [DeviceKind::Cpu, DeviceKind::Cuda] {
            learned.load(&bucket, kind).await;
        }
        learned
    }

    async fn load(&mut self, bucket: &kv::Store, kind: DeviceKind) {
        let key = self.key(kind);
        let entry = match bucket.entry(&key).await {
            Ok(Some(entry)) => entry,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(
                    key,
                    error = one_line(&error),
                    "cannot read what was learned of memory needs"
                );
                return;
            }
        };
        let entries = self.shelf(kind);
        entries.revision = entry.revision;
        match wire::decode(&entry.value) {
            Ok(content) => entries.content = content,
            // Of another release: learned anew.
            Err(error) => tracing::debug!(key, error = one_line(&error), "learned needs cannot be read"),
        }
    }

    /// `<kind>.<weights>.<px>.<cfg|plain>`
    fn key(&self, kind: DeviceKind) -> String {
        let model = &self.model;
        let weights = model.weights.to_string();
        let guidance = if model.is_guided() { "cfg" } else { "plain" };
        format!("{kind}.{}.{}.{guidance}", &weights[..16], model.resolution_px)
    }

    fn shelf(&mut self, kind: DeviceKind) -> &mut Shelf {
        match kind {
            DeviceKind::Cpu => &mut self.cpu,
            DeviceKind::Cuda => &mut self.cuda,
        }
    }

    fn content(&self, kind: DeviceKind) -> &LearnedNeeds {
        match kind {
            DeviceKind::Cpu => &self.cpu.content,
            DeviceKind::Cuda => &self.cuda.content,
        }
    }

    pub fn observations(&self, kind: DeviceKind) -> &[Observation] {
        &self.content(kind).observations
    }

    /// Milliseconds of one worker for a frame, if observed.
    pub fn frame_ms(&self, kind: DeviceKind) -> Option<f64> {
        self.content(kind).frame_ms
    }

    pub fn observe(&mut self, kind: DeviceKind, observation: Observation) {
        let entries = self.shelf(kind);
        note(&mut entries.content.observations, observation);
        entries.changed = true;
    }

    /// Notes how long one worker took for a frame.
    pub fn observe_rate(&mut self, kind: DeviceKind, frame_ms: f64) {
        let entries = self.shelf(kind);
        let known = entries.content.frame_ms.unwrap_or(frame_ms);
        entries.content.frame_ms = Some(known + NEW_RATE * (frame_ms - known));
        entries.changed = true;
    }

    /// Writes what changed, not too often unless it is the `last` time. Failing costs no more than knowledge.
    pub async fn write(&mut self, connection: &Connection, last: bool) {
        let is_due = self.written_at.is_none_or(|at| at.elapsed() >= WRITE_EVERY);
        if !(self.cpu.changed || self.cuda.changed) || !(is_due || last) {
            return;
        }
        self.written_at = Some(Instant::now());
        let Ok(bucket) = connection.context.get_key_value(NEEDS_BUCKET).await else {
            tracing::debug!("the bucket of learned needs does not answer");
            return;
        };
        for kind in [DeviceKind::Cpu, DeviceKind::Cuda] {
            let key = self.key(kind);
            let entries = self.shelf(kind);
            if !std::mem::take(&mut entries.changed) {
                continue;
            }
            let Ok(bytes) = wire::encode(&entries.content) else {
                continue;
            };
            match bucket.update(&key, bytes.into(), entries.revision).await {
                Ok(revision) => entries.revision = revision,
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                    // An own write whose answer was lost, or another coordinator's. Who holds the lease goes on
                    // from what is stored next time.
                    if let Ok(Some(entry)) = bucket.entry(&key).await {
                        entries.revision = entry.revision;
                        entries.changed = true;
                    }
                }
                Err(error) => {
                    tracing::debug!(key, error = one_line(&error), "cannot keep learned needs yet");
                    entries.changed = true;
                }
            }
        }
    }
}
