//! From the backlog into the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, Work};
use latentfarm_common::nats::lanes::Class;
use latentfarm_common::nats::tasks::{Published, TaskError};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::task::{AnalyzeTask, RenderTask, Task, TaskBody};
use tokio::time::Instant;

use super::dispatcher::{Dispatcher, Trouble};
use super::inputs::{analyze_input, render_input};
use super::placing::{Placed, Ready, short};
use super::settings::DispatchError;
use super::window::{fair, room};
use crate::job::chunk::{ChunkEvent, ChunkState};
use crate::journal::Entry;

/// How long the farm may refuse tasks, or the store their inputs.
const PATIENCE: Duration = Duration::from_mins(1);
const TRY_AGAIN: Duration = Duration::from_secs(1);

impl Dispatcher<'_> {
    /// Fills the window of each lane from the backlog. A farm that does not take tasks is left alone for a
    /// moment; after [`PATIENCE`] that is the job's end.
    pub(super) async fn publish(&mut self) -> Result<(), DispatchError> {
        if self
            .trouble
            .is_some_and(|trouble| Instant::now() < trouble.again_at)
        {
            return Ok(());
        }
        let Err(error) = self.fill_lanes().await else {
            return Ok(());
        };
        let now = Instant::now();
        let since = self.trouble.map_or(now, |trouble| trouble.since);
        if is_final(&error) || now - since > PATIENCE {
            return Err(error);
        }
        tracing::warn!(error = one_line(&error), "cannot publish tasks, trying again");
        self.trouble = Some(Trouble {
            since,
            again_at: now + TRY_AGAIN,
        });
        Ok(())
    }

    async fn fill_lanes(&mut self) -> Result<(), DispatchError> {
        self.fill_render_lanes().await?;
        let counts = self.state.analyze.counts();
        if counts.backlog == 0 {
            return Ok(());
        }
        let room = room(self.workers.live(), counts.queued + counts.running);
        let chosen = fair(room, &[self.ready(Work::Analyze)]);
        self.publish_to(Class::Analyze, &chosen, &BTreeMap::new()).await
    }

    /// The window of a lane is by the workers that serve it.
    async fn fill_render_lanes(&mut self) -> Result<(), DispatchError> {
        let ready = self.place().await;
        if ready.is_empty() {
            return Ok(());
        }
        let machines = self.workers.machines();
        let mut lanes: BTreeMap<Class, Vec<ChunkId>> = BTreeMap::new();
        for ready in &ready {
            lanes.entry(ready.fit.class).or_default().push(ready.chunk);
        }
        let fits: BTreeMap<ChunkId, Ready> = ready.into_iter().map(|ready| (ready.chunk, ready)).collect();
        for (class, chunks) in lanes {
            let serving = machines.iter().filter(|machine| machine.serves(class)).count();
            let chosen = fair(room(serving, self.in_lane(class)), &[chunks]);
            self.publish_to(class, &chosen, &fits).await?;
        }
        Ok(())
    }

    /// Chunks that may be published now, in frame order.
    fn ready(&self, work: Work) -> Vec<ChunkId> {
        self.state
            .of(work)
            .iter()
            .filter(|(_, _, state)| matches!(state, ChunkState::Backlog { .. }))
            .map(|(index, _, _)| self.chunk(work, index))
            .filter(|chunk| self.may_publish(*chunk))
            .collect()
    }

    /// Whether nothing speaks against publishing a chunk of the backlog now.
    pub(super) fn may_publish(&self, chunk: ChunkId) -> bool {
        let is_due = self.not_before.get(&chunk).is_none_or(|at| *at <= Instant::now());
        is_due && !self.verifier.under_way().contains(&chunk) && !self.condemned.contains_key(&chunk)
    }

    /// On an error the chunks stay in the backlog. `fits` holds where each render chunk goes.
    async fn publish_to(
        &mut self,
        class: Class,
        chunks: &[ChunkId],
        fits: &BTreeMap<ChunkId, Ready>,
    ) -> Result<(), DispatchError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let lane = self.settings.lane(class);
        let mut tasks = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            if self.stale.remove(chunk) {
                self.remove_tasks(*chunk).await;
            }
            tasks.extend(self.task(*chunk, fits.get(chunk)).await?);
        }
        while !tasks.is_empty() {
            let published = self.queue.publish_all(lane, &tasks).await.map_err(|error| {
                // Some may have been stored: not twice.
                self.stale.extend(chunks);
                DispatchError::Tasks(error)
            })?;
            let mut repeated = Vec::new();
            for (mut task, published) in tasks.into_iter().zip(published) {
                match published {
                    Published::Queued => self.enqueued(&task, fits.get(&task.chunk)),
                    // Its number was used by an earlier run not long ago.
                    Published::Duplicate => {
                        task.attempt = task.attempt.saturating_add(1);
                        repeated.push(task);
                    }
                }
            }
            tasks = repeated;
        }
        self.trouble = None;
        Ok(())
    }

    fn enqueued(&mut self, task: &Task, ready: Option<&Ready>) {
        let attempt = crate::job::attempt::Attempt {
            epoch: task.epoch,
            number: task.attempt,
        };
        if let Some(Ready { fit, why, .. }) = ready {
            self.placed.insert(task.chunk, Placed { fit: *fit });
            self.journal.note(Entry::Placed {
                chunk: short(task.chunk),
                attempt: task.attempt,
                lane: self.settings.lane(fit.class).to_string(),
                kind: fit.plan.kind,
                floor: fit.plan.floor,
                need_mib: fit.need_mib,
                needs: fit.plan.needs,
                why: (*why).to_owned(),
            });
        }
        self.not_before.remove(&task.chunk);
        self.leftovers.remove(&task.chunk);
        self.apply(task.chunk, ChunkEvent::Enqueued { attempt }, None);
    }

    /// The task of a chunk of the backlog, its input stored.
    async fn task(&mut self, chunk: ChunkId, ready: Option<&Ready>) -> Result<Option<Task>, DispatchError> {
        let chunks = self.state.of(chunk.work);
        let Some((state, range)) = chunks.get(chunk.index).zip(chunks.range(chunk.index)) else {
            return Ok(None);
        };
        let attempt = state.attempt().under(self.lease.epoch());
        let input = self.input(chunk, range).await?;
        let spec = &self.spec;
        let body = match (chunk.work, ready) {
            (Work::Render, None) => return Ok(None),
            (Work::Analyze, _) => TaskBody::Analyze(AnalyzeTask {
                source: spec.source.clone(),
                range,
                input,
            }),
            (Work::Render, Some(ready)) => TaskBody::Render(RenderTask {
                source: spec.source.clone(),
                audio: spec.audio.clone(),
                model: spec.model.clone(),
                encoder: spec.encoder.clone(),
                range,
                input,
                memory: ready.fit.plan,
            }),
        };
        Ok(Some(Task {
            chunk,
            attempt: attempt.number,
            epoch: attempt.epoch,
            store: self.farm.store.url().to_owned(),
            body,
        }))
    }

    async fn input(&mut self, chunk: ChunkId, range: FrameRange) -> Result<BlobRef, DispatchError> {
        if let Some(blob) = self.stored.get(&chunk) {
            return Ok(*blob);
        }
        let bytes = match chunk.work {
            Work::Analyze => wire::encode(&analyze_input(&self.timeline, range)),
            Work::Render => wire::encode(&render_input(&self.spec, &self.timeline, &self.track, range)),
        };
        let bytes = bytes.map_err(DispatchError::Encode)?;
        let blob = self
            .farm
            .store
            .put_bytes(bytes)
            .await
            .map_err(|error| DispatchError::Store(Box::new(error)))?;
        self.stored.insert(chunk, blob);
        Ok(blob)
    }

    /// Removes the tasks for one chunk, running or not. A task that stays only makes for a double run.
    pub(super) async fn remove_tasks(&self, chunk: ChunkId) {
        if let Err(error) = self.queue.remove_chunk(chunk).await {
            tracing::warn!(%chunk, error = one_line(&error), "cannot remove a task that is not needed");
        }
    }
}

/// Whether trying again is in vain.
fn is_final(error: &DispatchError) -> bool {
    match error {
        DispatchError::Tasks(error) => matches!(error, TaskError::Encode { .. } | TaskError::TooLarge { .. }),
        DispatchError::Store(_) => false,
        _ => true,
    }
}
