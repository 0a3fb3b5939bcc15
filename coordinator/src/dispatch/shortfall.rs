//! Attempts that ran out of memory, or seem to have: what is learned from them and what follows for the chunk.

use latentfarm_common::ids::{ChunkId, Work, WorkerId};
use latentfarm_common::nats::lanes::Lane;
use latentfarm_common::needs::{Observation, Seen, same_need};
use latentfarm_common::wire::memory::{DeviceKind, Rung};
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, Failure};

use super::dispatcher::Dispatcher;
use super::memory::{Oom, Raised, gib};
use super::placing::short;
use crate::journal::{Entry, Line};

/// Workers that fell silent over the same chunk before that counts as out of memory: machines die of it too.
const LOSSES: u32 = 2;

/// One attempt that ran out of memory, as the report lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomNote {
    /// Text form without the job.
    pub chunk: String,
    pub attempt: u32,
    pub worker: String,
    pub device: String,
    pub stage: String,
    pub rung: Rung,
    pub needed_at_least_mib: Option<u64>,
    pub free_before_mib: u64,
    pub suspected: bool,
    /// What followed.
    pub then: String,
}

impl OomNote {
    /// From a journal's entry, if it is one.
    pub fn of(entry: &Entry) -> Option<Self> {
        let Entry::Failed {
            chunk,
            attempt,
            worker,
            failure,
            then,
            ..
        } = entry
        else {
            return None;
        };
        let Failure::OutOfMemory {
            device,
            stage,
            rung,
            needed_at_least_mib,
            free_before_mib,
            suspected,
        } = failure
        else {
            return None;
        };
        Some(Self {
            chunk: chunk.clone(),
            attempt: *attempt,
            worker: worker.clone(),
            device: device.clone(),
            stage: stage.clone(),
            rung: *rung,
            needed_at_least_mib: *needed_at_least_mib,
            free_before_mib: *free_before_mib,
            suspected: *suspected,
            then: then.clone().unwrap_or_default(),
        })
    }
}

impl Dispatcher<'_> {
    /// An attempt under way failed: what followed from it, in words, where it was for memory.
    pub(super) fn note_failure(
        &mut self,
        chunk: ChunkId,
        attempt: u32,
        worker: &WorkerId,
        failure: &Failure,
    ) {
        let placed = self.placed.get(&chunk).map(|placed| placed.fit);
        let kind = placed.map(|fit| fit.plan.kind);
        let then = match failure {
            // An analysis needs no engine: there is no leaner plan for it.
            Failure::OutOfMemory { .. } if chunk.work == Work::Analyze => None,
            Failure::OutOfMemory {
                device,
                rung,
                needed_at_least_mib,
                suspected,
                ..
            } => {
                let oom = Oom {
                    kind: kind.unwrap_or_else(|| kind_of(device)),
                    rung: *rung,
                    needed_at_least_mib: *needed_at_least_mib,
                    class: placed.map(|fit| fit.class),
                    suspected: *suspected,
                };
                Some(self.note_oom(chunk, &oom))
            }
            Failure::NoRoom { .. } => Some("nothing was tried: it is tried again".to_owned()),
            Failure::BadInput { .. }
            | Failure::WorkerUnfit { .. }
            | Failure::Transient { .. }
            | Failure::EngineLost { .. } => None,
        };
        let entry = Entry::Failed {
            chunk: short(chunk),
            attempt,
            worker: worker.to_string(),
            failure: failure.clone(),
            kind,
            lane: placed.map(|fit| self.settings.lane(fit.class).to_string()),
            then,
        };
        self.ooms.extend(OomNote::of(&entry));
        self.journal.note(entry);
    }

    /// An attempt failed that no longer counts. That it ran out of memory is told all the same, once.
    pub(super) fn note_late_failure(
        &mut self,
        chunk: ChunkId,
        attempt: u32,
        worker: &WorkerId,
        failure: &Failure,
    ) {
        let entry = Entry::Failed {
            chunk: short(chunk),
            attempt,
            worker: worker.to_string(),
            failure: failure.clone(),
            kind: None,
            lane: None,
            then: Some("another attempt counts already".to_owned()),
        };
        let Some(note) = OomNote::of(&entry) else { return };
        let is_told = |told: &OomNote| {
            told.chunk == note.chunk && told.attempt == note.attempt && told.worker == note.worker
        };
        if chunk.job == self.spec.id && !self.ooms.iter().any(is_told) {
            self.ooms.push(note);
            self.journal.note(entry);
        }
    }

    fn note_oom(&mut self, chunk: ChunkId, oom: &Oom) -> String {
        if let Some(mib) = oom.needed_at_least_mib.filter(|_| !oom.suspected) {
            let need = Seen::MoreThan(mib);
            let predicted = self.settings.needs.of(oom.kind);
            let rung = predicted.map_or(oom.rung, |needs| same_need(needs, oom.rung));
            self.learned.observe(oom.kind, Observation { rung, need });
        }
        let raised = self.raise(chunk, oom);
        said(raised, oom.kind)
    }

    fn raise(&mut self, chunk: ChunkId, oom: &Oom) -> Raised {
        let needs = self.settings.needs;
        let Some(predicted) = needs.of(oom.kind) else {
            return Raised::Nothing;
        };
        let memory = self.memory.entry(chunk.index).or_default();
        memory.note(oom, predicted, needs.beside(oom.kind))
    }

    /// The worker of a chunk fell silent in the middle of it. Once may be anything; what kills machine after
    /// machine is given a leaner plan.
    pub(super) fn note_loss(&mut self, chunk: ChunkId) -> Option<String> {
        if chunk.work == Work::Analyze {
            return None;
        }
        let losses = self.losses.entry(chunk.index).or_default();
        *losses += 1;
        if !(*losses).is_multiple_of(LOSSES) {
            return None;
        }
        let fit = self.placed.get(&chunk)?.fit;
        let oom = Oom {
            kind: fit.plan.kind,
            rung: fit.plan.floor,
            needed_at_least_mib: None,
            class: Some(fit.class),
            suspected: true,
        };
        let raised = self.raise(chunk, &oom);
        Some(format!(
            "{LOSSES} workers were lost over it, so it may have been memory: {}",
            said(raised, oom.kind)
        ))
    }

    /// A verified result of this coordinator's time: what it took, and how long.
    pub(super) fn note_done(&mut self, record: &DoneRecord, frames: u64) {
        self.journal.note(Entry::Done {
            chunk: short(record.chunk),
            attempt: record.attempt,
            worker: record.worker.to_string(),
            frames,
            numeric_kind: record.numeric_kind.clone(),
            memory: record.memory.clone(),
        });
        let (DoneBody::Render { synced, .. }, Some(used)) = (&record.body, &record.memory) else {
            return;
        };
        if used.peak_mib > 0 {
            let (rung, need) = (used.rung, Seen::Peak(used.peak_mib));
            self.learned.observe(used.kind, Observation { rung, need });
        }
        let ms = record.timings.engine_ms + record.timings.media_wait_ms;
        if ms > 0 && *synced > 0 {
            self.learned
                .observe_rate(used.kind, ms as f64 / f64::from(*synced));
        }
    }

    /// What an earlier run of the same job found out about its chunks.
    pub(super) fn recall(&mut self, lines: &[Line]) {
        for line in lines {
            let Some(note) = OomNote::of(&line.entry) else {
                continue;
            };
            let Entry::Failed {
                chunk, kind, lane, ..
            } = &line.entry
            else {
                continue;
            };
            self.ooms.push(note.clone());
            let index = chunk
                .strip_prefix('r')
                .and_then(|digits| digits.parse::<u32>().ok());
            // Without one it was an attempt that did not count.
            let Some(lane) = lane.as_ref().and_then(|lane| lane.parse::<Lane>().ok()) else {
                continue;
            };
            if let Some(index) = index {
                let oom = Oom {
                    kind: kind.unwrap_or_else(|| kind_of(&note.device)),
                    rung: note.rung,
                    needed_at_least_mib: note.needed_at_least_mib,
                    class: Some(lane.class),
                    suspected: note.suspected,
                };
                self.raise(self.chunk(Work::Render, index), &oom);
            }
        }
    }
}

fn said(raised: Raised, kind: DeviceKind) -> String {
    match raised {
        Raised::Floor(rung) => format!("its plan floor on {kind} rises to {rung}"),
        Raised::Class(mib) => format!(
            "the leanest plan is not enough: on {kind} it asks for {} from now on",
            gib(mib)
        ),
        Raised::Nothing => "the device had less than it offered: the same place once more".to_owned(),
    }
}

/// By the text form of a device.
fn kind_of(device: &str) -> DeviceKind {
    if device.starts_with("cpu") {
        DeviceKind::Cpu
    } else {
        DeviceKind::Cuda
    }
}
