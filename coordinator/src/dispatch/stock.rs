//! Taking stock: what is done, what is queued, what went missing.

use std::collections::BTreeSet;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, Work};
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::lanes::Lane;
use latentfarm_common::nats::lease::Contention;
use latentfarm_common::nats::tasks::TaskError;
use latentfarm_common::nats::{subjects, topology};
use latentfarm_common::wire;
use latentfarm_common::wire::task::Task;
use tokio::time::Instant;

use super::dispatcher::Dispatcher;
use super::notice::JobEvent;
use super::reconcile::{QueueView, Repair, compare};
use super::report::RetryClass;
use super::settings::DispatchError;
use crate::job::attempt::Attempt;
use crate::job::chunk::ChunkEvent;

impl Dispatcher<'_> {
    /// At the start: tasks of an earlier coordinator go (workers ignore its epoch), its records are verified.
    /// Returns the first place of the done log that was not read.
    pub(super) async fn take_stock(&mut self) -> Result<u64, DispatchError> {
        self.take_over_queue().await?;
        let entries = self
            .done_log
            .list(self.spec.id)
            .await
            .map_err(DispatchError::DoneLog)?;
        if !entries.is_empty() {
            self.notify(JobEvent::Resumed {
                records: entries.len(),
            });
        }
        let mut next = 1;
        for entry in entries {
            next = next.max(entry.sequence + 1);
            self.on_done(entry.chunk, entry.sequence, entry.record).await;
        }
        Ok(next)
    }

    async fn take_over_queue(&mut self) -> Result<(), DispatchError> {
        let filter = subjects::tasks_of_job(self.spec.id);
        let mut reader = DirectReader::new(&self.farm.connection.client, topology::TASKS, &filter, 1);
        let adopt_at = Instant::now() + self.settings.pace.adopt_wait;
        while let Some(message) = reader.next().await.map_err(DispatchError::Leftovers)? {
            let Ok(task) = wire::decode::<Task>(&message.payload) else {
                continue;
            };
            let attempt = Attempt {
                epoch: task.epoch,
                number: task.attempt,
            };
            self.leftovers.insert(task.chunk, attempt);
            if self.settings.contention == Contention::Refuse {
                self.not_before.insert(task.chunk, adopt_at);
            }
        }
        let removed = self
            .queue
            .remove_job(self.spec.id)
            .await
            .map_err(DispatchError::Tasks)?;
        if removed > 0 {
            tracing::info!(removed, "removed tasks of an earlier coordinator");
        }
        Ok(())
    }

    /// Every minute: missing = manifest - done - queued goes back to the backlog. A farm that does not answer
    /// is asked again in a minute.
    pub(super) async fn reconcile(&mut self) {
        let view = match self.view().await {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(
                    error = one_line(&error),
                    "cannot compare with the queue this time"
                );
                return;
            }
        };
        for repair in compare(self.spec.id, &self.state, &view) {
            match repair {
                Repair::Remove { chunk } => self.remove_tasks(chunk).await,
                Repair::Lost { chunk, attempt } => {
                    // Done between the two looks: its record is on its way here.
                    let recorded = self.done_log.get(chunk).await;
                    if matches!(recorded, Ok(None)) {
                        self.apply(
                            chunk,
                            ChunkEvent::QueueLost { attempt },
                            Some(RetryClass::QueueLost),
                        );
                    }
                }
            }
        }
    }

    /// At the end: nobody needs what is left in the queue.
    pub(super) async fn clear_queue(&self) {
        if let Err(error) = self.queue.remove_job(self.spec.id).await {
            tracing::warn!(error = one_line(&error), "cannot clear the job's tasks");
        }
    }

    async fn view(&self) -> Result<QueueView, TaskError> {
        let tasks = self.queue.queued(self.spec.id).await?;
        let mut stranded = BTreeSet::new();
        for lane in self.lanes_in_use() {
            if self.is_dead(lane).await? {
                stranded.extend(
                    tasks
                        .iter()
                        .filter(|(at, _)| *at == lane)
                        .map(|(_, chunk)| *chunk),
                );
            }
        }
        Ok(QueueView {
            queued: tasks.into_iter().map(|(_, chunk)| chunk).collect(),
            stranded,
            held: self
                .all_chunks()
                .filter(|chunk| self.workers.hold(*chunk))
                .collect(),
            in_check: self.verifier.under_way().clone(),
        })
    }

    /// The lane hands out nothing and has nothing in hand, whatever the queue holds under its name.
    async fn is_dead(&self, lane: Lane) -> Result<bool, TaskError> {
        let load = topology::lane_load(&self.farm.connection.context, lane).await?;
        Ok(load.is_none_or(|load| load.waiting == 0 && load.held == 0))
    }

    fn all_chunks(&self) -> impl Iterator<Item = ChunkId> {
        [Work::Analyze, Work::Render].into_iter().flat_map(move |work| {
            self.state
                .of(work)
                .iter()
                .map(move |(index, _, _)| self.chunk(work, index))
        })
    }
}
