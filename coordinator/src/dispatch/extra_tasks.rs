//! Publishes tasks beside those of the backlogs: backups of chunks that are running, frames that are rendered again to
//! measure a border, and chunks that are rendered again as a spot check.

use latentfarm_common::ids::{Attempt, ChunkId};
use latentfarm_common::nats::tasks::Published;
use latentfarm_common::queues::Queue;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::task::Task;

use super::backup::Backup;
use super::border_samples::SampleTask;
use super::error::DispatchError;
use super::job::Job;
use super::publisher::{TaskPublisher, render_task};
use super::spot_checks::Repeat;
use super::task_inputs::render_input;
use crate::placement::Fit;

impl TaskPublisher {
    /// Publishes a second task of a chunk that is running.
    pub(super) async fn publish_backup(&self, job: &mut Job, backup: &Backup) -> Result<(), DispatchError> {
        let Backup { chunk, fit, .. } = backup;
        let Some(record) = job.chunks.get(*chunk) else {
            return Ok(());
        };
        let (range, attempt) = (record.range, record.state().attempt.next());
        let input = self.input_of(*chunk, range, job).await?;
        let task = self.render_task(job, (*chunk, attempt), range, input, fit);
        let attempt = self.publish_one(job.settings.queue(fit.lane()), task).await?;
        job.on_backup(*chunk, attempt, fit);
        Ok(())
    }

    /// Publishes the task to render the first frames of a chunk again, on a machine of another numeric kind.
    pub(super) async fn publish_sample(
        &self,
        job: &Job,
        chunk: ChunkId,
        sample: &SampleTask,
    ) -> Result<(), DispatchError> {
        let SampleTask { range, fit, .. } = sample;
        let (spec, segments) = (&job.spec, job.segments.entries());
        let range = FrameRange::new(range.start, range.end.min(spec.frames));
        let input = render_input(spec, &job.timeline, segments, &job.gate.track, range);
        let input = self.put(wire::encode(&input)).await?;
        let first = Attempt::default().under(self.epoch);
        let task = self.render_task(job, (chunk, first), range, input, fit);
        self.publish_one(job.settings.queue(fit.lane()), task).await?;
        Ok(())
    }

    /// Publishes the task to render a chunk again, on another worker of the same numeric kind.
    pub(super) async fn publish_repeat(&self, job: &mut Job, repeat: &Repeat) -> Result<(), DispatchError> {
        let Repeat {
            chunk,
            task,
            range,
            ref excluded,
            ref fit,
        } = *repeat;
        let input = self.input_of(chunk, range, job).await?;
        let first = Attempt::default().under(self.epoch);
        let task = Task {
            excluded: excluded.clone(),
            ..self.render_task(job, (task, first), range, input, fit)
        };
        self.publish_one(job.settings.queue(fit.lane()), task).await?;
        Ok(())
    }

    /// Makes the task to render some frames of a job.
    fn render_task(
        &self,
        job: &Job,
        (chunk, attempt): (ChunkId, Attempt),
        range: FrameRange,
        input: BlobRef,
        fit: &Fit,
    ) -> Task {
        Task {
            chunk,
            attempt,
            store: self.link.store_url().to_owned(),
            excluded: Vec::new(),
            needed_tags: job.settings.needed_tags.clone(),
            body: render_task(&job.spec, range, input, fit),
        }
    }

    /// Publishes one task, under the first number from its attempt's on that no earlier run used not long ago.
    async fn publish_one(&self, queue: Queue, mut task: Task) -> Result<Attempt, DispatchError> {
        loop {
            let published = self.link.publish(queue, std::slice::from_ref(&task)).await?;
            match published.first() {
                Some(Published::Queued) => return Ok(task.attempt),
                Some(Published::Duplicate) | None => task.attempt = task.attempt.next(),
            }
        }
    }
}
