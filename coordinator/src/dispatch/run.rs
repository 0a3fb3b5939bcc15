//! A farm with one job, from its manifest to its end: what `render` runs.

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
use super::notice::JobEvent;
use super::report::JobReport;
use super::settings::DispatchSettings;
use super::verify::Check;
use crate::job::chunks::Ending;
use crate::job::store;

/// A job's end and what there is of its output.
#[derive(Debug)]
pub struct JobResult {
    pub ending: Ending,
    /// Verified records of the render chunks that are done, in frame order.
    pub records: Vec<Arc<DoneRecord>>,
    pub report: JobReport,
    /// Still held: check it before the output gets its name, then release it.
    pub lease: Lease,
}

/// Runs a job to its end, or until `shutdown`. Becomes the farm's coordinator; stops at once when another one
/// takes over. `check` verifies the segment of each render record before it counts.
pub async fn run_job(
    farm: &Farm,
    spec: JobSpec,
    timeline: Timeline,
    settings: DispatchSettings,
    check: Check,
    observer: mpsc::UnboundedSender<JobEvent>,
    shutdown: Shutdown,
) -> Result<JobResult, DispatchError> {
    let DispatchSettings { farm: of_farm, job } = settings;
    let ensured = topology::ensure(&farm.connection.context, &farm.topology).await;
    ensured.map_err(DispatchError::at("prepare the farm's streams"))?;
    let known = store::agree(&farm.connection, &job.job_dir, &spec).await?;
    let (holder, time) = (of_farm.holder.clone(), of_farm.lease_time);
    let lease = Lease::acquire(&farm.connection, &holder, time, of_farm.contention).await;
    let lease = lease.map_err(DispatchError::Lease)?;
    tracing::debug!(job = %spec.id, ?known, epoch = lease.epoch(), "dispatching");

    // Too large for the futures of those who await this one.
    let driven = Box::pin(async {
        let job = Job::new(spec, timeline, job, of_farm.pace.clone(), observer)?;
        let mut dispatcher = Dispatcher::open(farm, &lease, of_farm, check).await?;
        dispatcher.admit(job).await?;
        dispatcher.run(shutdown).await
    });
    match driven.await {
        Ok((ending, job)) => Ok(JobResult {
            ending,
            records: job.chunks.records(),
            report: job.report(),
            lease,
        }),
        Err(error) => {
            // A lost lease is another's.
            if lease.is_held() {
                lease.release().await;
            }
            Err(error)
        }
    }
}
