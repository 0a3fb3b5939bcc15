//! Places render chunks: which lane each may go to now, which have to wait, and which are moved because the farm
//! or what is known of their need has changed.
//!
//! Runs before every publish, so a worker that joins is used with its first heartbeat. A chunk that is queued but
//! not begun is moved when its best lane is another one: a GPU that could take a chunk of the CPU's lane takes it
//! by that, and the first done record wins where a worker pulled it at that very moment.

use std::collections::BTreeMap;

use latentfarm_common::ids::{ChunkId, Work};
use latentfarm_common::nats::lanes::{Class, Lane};
use latentfarm_common::wire::memory::DeviceKind;
use tokio::time::Instant;

use super::dispatcher::Dispatcher;
use super::memory::{
    Candidate, ChunkMemory, Fit, JobNeeds, Load, Machine, Options, Placement, Shortage, options, solve,
};
use super::notice::JobEvent;
use crate::job::chunk::{ChunkEvent, ChunkState};
use crate::journal::Entry;

/// Where a chunk was published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) fit: Fit,
}

/// A chunk that fits no live worker.
#[derive(Clone, Debug)]
pub(super) struct Unplaced {
    since: Instant,
    pub(super) shortages: Vec<Shortage>,
}

impl Unplaced {
    /// In words.
    pub(super) fn text(&self) -> String {
        if self.shortages.is_empty() {
            return "what it needs of a GPU is not known, and the CPU is not allowed".to_owned();
        }
        let parts: Vec<String> = self.shortages.iter().map(ToString::to_string).collect();
        parts.join("; ")
    }
}

/// A render chunk that may go to a lane now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) chunk: ChunkId,
    pub(super) fit: Fit,
    pub(super) why: &'static str,
}

impl Dispatcher<'_> {
    /// Places all chunks that nobody has begun; returns those of the backlog that have a lane, in frame order.
    pub(super) async fn place(&mut self) -> Vec<Ready> {
        let machines = self.workers.machines();
        // Without any worker there is nobody to judge by: nothing is published, nothing is given up.
        let waiting: Vec<(ChunkId, u64, Option<Class>)> = self.unbegun();
        if machines.is_empty() || waiting.is_empty() {
            self.unplaced.clear();
            return Vec::new();
        }
        let needs = self.needs();
        let usual = options(&needs, &ChunkMemory::default(), &machines);
        let candidates: Vec<Candidate> = waiting
            .iter()
            .map(|(chunk, frames, at)| Candidate {
                frames: *frames,
                options: match self.memory.get(&chunk.index) {
                    Some(memory) => options(&needs, memory, &machines),
                    None => usual.clone(),
                },
                at: *at,
            })
            .collect();
        let load = self.load(&machines, &candidates);
        let placements = solve(self.settings.cpu_fallback, &candidates, &load);
        let mut ready = Vec::new();
        let mut unplaced = BTreeMap::new();
        for ((chunk, _, at), placement) in waiting.into_iter().zip(placements) {
            if at.is_some() && at != placement.class() {
                self.take_back(chunk, &placement).await;
            }
            match placement {
                Placement::Lane { fit, why } if at.is_none() => ready.push(Ready { chunk, fit, why }),
                Placement::Lane { .. } => {}
                Placement::Wait { shortages } => {
                    unplaced.insert(chunk.index, self.unplaced_since(chunk, shortages));
                }
            }
        }
        // Those that are left to somebody for a moment wait on.
        let held: Vec<u32> = self
            .unplaced
            .keys()
            .copied()
            .filter(|index| self.is_held_back(*index))
            .collect();
        for index in held {
            unplaced.extend(self.unplaced.remove_entry(&index));
        }
        self.unplaced = unplaced;
        self.give_up_unplaceable();
        ready
    }

    /// In the backlog, and not to be published yet.
    fn is_held_back(&self, index: u32) -> bool {
        let in_backlog = matches!(self.state.render.get(index), Some(ChunkState::Backlog { .. }));
        in_backlog && !self.may_publish(self.chunk(Work::Render, index))
    }

    /// Corrected by what was learned.
    pub(super) fn needs(&self) -> JobNeeds {
        self.settings
            .needs
            .corrected(|kind| self.learned.observations(kind))
    }

    /// Chunks of the backlog that may be published now, and queued ones with their lane's class.
    fn unbegun(&self) -> Vec<(ChunkId, u64, Option<Class>)> {
        let in_check = self.verifier.under_way();
        let chunks = self.state.render.iter().filter_map(|(index, range, state)| {
            let chunk = self.chunk(Work::Render, index);
            let at = match state {
                ChunkState::Backlog { .. } if self.may_publish(chunk) => None,
                ChunkState::Queued { .. } if !in_check.contains(&chunk) => {
                    Some(self.placed.get(&chunk)?.fit.class)
                }
                ChunkState::Waiting { .. }
                | ChunkState::Backlog { .. }
                | ChunkState::Queued { .. }
                | ChunkState::Running { .. }
                | ChunkState::Done { .. }
                | ChunkState::Quarantined { .. } => return None,
            };
            Some((chunk, range.len(), at))
        });
        chunks.collect()
    }

    fn load(&self, machines: &[Machine], candidates: &[Candidate]) -> Load {
        let serve = |machine: &&Machine, class: fn(&Options) -> Option<Class>| {
            let mut classes = candidates
                .iter()
                .filter_map(|candidate| class(&candidate.options));
            classes.any(|class| machine.serves(class))
        };
        let gpu = |options: &Options| options.gpu.map(|fit| fit.class);
        let cpu = |options: &Options| options.cpu.map(|fit| fit.class);
        let mut load = Load {
            gpu_workers: machines.iter().filter(|machine| serve(machine, gpu)).count(),
            cpu_workers: machines
                .iter()
                .filter(|machine| machine.device_mib.is_none() && serve(machine, cpu))
                .count(),
            gpu_frame_ms: self.learned.frame_ms(DeviceKind::Cuda),
            cpu_frame_ms: self.learned.frame_ms(DeviceKind::Cpu),
            ..Load::default()
        };
        for (index, range, state) in self.state.render.iter() {
            let ChunkState::Running { .. } = state else {
                continue;
            };
            match self.placed_kind(self.chunk(Work::Render, index)) {
                Some(DeviceKind::Cuda) => load.gpu_frames += range.len(),
                Some(DeviceKind::Cpu) => load.cpu_chunks += 1,
                None => {}
            }
        }
        load
    }

    pub(super) fn placed_kind(&self, chunk: ChunkId) -> Option<DeviceKind> {
        self.placed.get(&chunk).map(|placed| placed.fit.plan.kind)
    }

    async fn take_back(&mut self, chunk: ChunkId, placement: &Placement) {
        let Some(state) = self.state.render.get(chunk.index) else {
            return;
        };
        let attempt = state.attempt();
        let why = match placement {
            Placement::Lane { fit, why } => format!("{} is better: {why}", self.settings.lane(fit.class)),
            Placement::Wait { .. } => "nobody is left who can take it there".to_owned(),
        };
        self.remove_tasks(chunk).await;
        if let Some(placed) = self.placed.remove(&chunk) {
            let lane = self.settings.lane(placed.fit.class).to_string();
            tracing::info!(%chunk, lane, why, "taken out of the queue to be placed anew");
            self.journal.note(Entry::TakenBack {
                chunk: short(chunk),
                attempt: attempt.number,
                lane,
                why,
            });
        }
        let again_at = Instant::now() + self.settings.pace.take_back_wait;
        self.not_before.insert(chunk, again_at);
        self.apply(chunk, ChunkEvent::TakenBack { attempt }, None);
    }

    fn unplaced_since(&mut self, chunk: ChunkId, shortages: Vec<Shortage>) -> Unplaced {
        if let Some(before) = self.unplaced.remove(&chunk.index) {
            let since = before.since;
            return Unplaced { since, shortages };
        }
        let unplaced = Unplaced {
            since: Instant::now(),
            shortages,
        };
        let range = self.state.render.range(chunk.index);
        let reason = unplaced.text();
        self.journal.note(Entry::Waits {
            chunk: short(chunk),
            why: reason.clone(),
        });
        if let Some(range) = range {
            self.notify(JobEvent::ChunkUnplaced {
                chunk,
                range,
                reason,
                at_most: self.settings.unplaceable_wait,
            });
        }
        unplaced
    }

    fn give_up_unplaceable(&mut self) {
        let wait = self.settings.unplaceable_wait;
        let over: Vec<(u32, String)> = self
            .unplaced
            .iter()
            .filter(|(_, unplaced)| unplaced.since.elapsed() >= wait)
            .map(|(index, unplaced)| (*index, unplaced.text()))
            .collect();
        for (index, text) in over {
            self.unplaced.remove(&index);
            let reason = format!("{text} (waited {:.0} s for a bigger node)", wait.as_secs_f64());
            self.apply(
                self.chunk(Work::Render, index),
                ChunkEvent::Blocked { reason },
                None,
            );
        }
    }

    /// Render chunks queued or running in a lane.
    pub(super) fn in_lane(&self, class: Class) -> usize {
        let is_under_way = |chunk: &ChunkId| {
            let state = self.state.render.get(chunk.index);
            matches!(
                state,
                Some(ChunkState::Queued { .. } | ChunkState::Running { .. })
            )
        };
        let there = self.placed.iter().filter(|(_, placed)| placed.fit.class == class);
        there.filter(|(chunk, _)| is_under_way(chunk)).count()
    }

    /// Lanes in which this job may have tasks.
    pub(super) fn lanes_in_use(&self) -> Vec<Lane> {
        let mut lanes: Vec<Lane> = self
            .placed
            .values()
            .map(|placed| self.settings.lane(placed.fit.class))
            .collect();
        lanes.push(self.settings.lane(Class::Analyze));
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    /// What the operator should know of chunks that wait for memory: their number, and the largest shortage.
    pub(super) fn waiting_for_memory(&self) -> Option<(usize, String)> {
        let need = |unplaced: &&Unplaced| unplaced.shortages.iter().map(|shortage| shortage.need_mib).max();
        let largest = self.unplaced.values().max_by_key(need)?;
        Some((self.unplaced.len(), largest.text()))
    }
}

/// The chunk's text form without its job.
pub(super) fn short(chunk: ChunkId) -> String {
    let text = chunk.to_string();
    text.split_once('.')
        .map_or(text.clone(), |(_, tail)| tail.to_owned())
}
