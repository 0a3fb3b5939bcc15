//! Runs a farm with one job, from its manifest to its end. `render` calls it once the job is planned, and
//! cuts the source video beside it.

use std::sync::Arc;

use latentfarm_common::nats::lease::Lease;
use latentfarm_common::nats::topology;
use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::sync::mpsc;

use super::dispatcher::Dispatcher;
use super::error::DispatchError;
use super::farm::Farm;
use super::job::Job;
use super::job_event::JobEvent;
use super::report::JobReport;
use super::settings::DispatchSettings;
use super::verify::SegmentCheck;
use crate::job::chunks::Ending;
use crate::job::manifest;
use crate::job::segments::VideoNews;

/// A job whose inputs have been examined, and whose sound and timeline are stored.
#[derive(Debug)]
pub struct PlannedJob {
    pub spec: JobSpec,
    pub timeline: Timeline,
    /// Brings the segments of the source video while that is cut, in order. The job is complete only when
    /// their end has come.
    pub video: mpsc::UnboundedReceiver<VideoNews>,
}

/// How a job ended, and the records of its output.
#[derive(Debug)]
pub struct JobResult {
    pub ending: Ending,
    /// Verified records of the render chunks that are done, in frame order.
    pub records: Vec<Arc<DoneRecord>>,
    pub report: JobReport,
    /// The lease, which is still held: the caller checks it before it renames the output, and then releases
    /// it.
    pub lease: Lease,
}

/// Runs a job to its end, or until `shutdown`. This process becomes the farm's coordinator, and stops at once
/// if another one takes over. `check` verifies the segment of each render record before it counts.
pub async fn run_job(
    farm: &Farm,
    planned: PlannedJob,
    settings: DispatchSettings,
    check: SegmentCheck,
    observer: mpsc::UnboundedSender<JobEvent>,
    shutdown: Shutdown,
) -> Result<JobResult, DispatchError> {
    let PlannedJob {
        spec,
        timeline,
        video,
    } = planned;
    let DispatchSettings { farm: of_farm, job } = settings;
    let ensured = topology::ensure(&farm.connection.context, &farm.topology).await;
    ensured.map_err(DispatchError::at("prepare the farm's streams"))?;
    let known = manifest::ensure(&farm.connection, &job.job_dir, &spec).await?;
    let (holder, time) = (of_farm.holder.clone(), of_farm.lease_time);
    let lease = Lease::acquire(&farm.connection, &holder, time, of_farm.contention).await;
    let lease = lease.map_err(DispatchError::Lease)?;
    tracing::debug!(job = %spec.id, ?known, epoch = lease.epoch(), "dispatching");

    // The future is boxed because it is too large to be part of the callers' futures.
    let driven = Box::pin(async {
        let job = Job::new(spec, timeline, job, of_farm.timeouts.clone(), observer)?;
        let mut dispatcher = Dispatcher::open(farm, &lease, of_farm, check).await?;
        dispatcher.admit(job, video).await?;
        dispatcher.run(shutdown).await
    });
    match driven.await {
        Ok((ending, job)) => Ok(JobResult {
            ending,
            records: job.chunks.records(),
            report: JobReport::of(&job),
            lease,
        }),
        Err(error) => {
            // A lost lease belongs to another coordinator.
            if lease.is_held() {
                lease.release().await;
            }
            Err(error)
        }
    }
}
