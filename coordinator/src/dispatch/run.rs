//! Runs a farm: the jobs that orders bring, or one job from its manifest to its end. `render` calls [`run_job`]
//! once its job is planned, and cuts the source video beside it.

use std::sync::Arc;

use latentfarm_common::nats::lease::Lease;
use latentfarm_common::nats::topology;
use latentfarm_common::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot};

use super::dispatcher::Dispatcher;
use super::error::DispatchError;
use super::farm::Farm;
use super::job_event::JobEvent;
use super::nats_link::NatsLink;
use super::order::{Admission, JobEnd, Order, PlannedJob};
use super::segment_reader::SegmentReader;
use super::settings::{DispatchSettings, FarmSettings};
use crate::job::manifest;

/// The end of a farm's only job.
#[derive(Debug)]
pub struct OnlyJob {
    pub end: JobEnd,
    /// The lease, which is still held: the caller checks it before it renames the output, and then releases
    /// it.
    pub lease: Lease,
}

/// Carries out `orders` until no more can come and all jobs have ended, or until `shutdown`: then the jobs end
/// as interrupted. This process holds the `lease` of the farm, whose streams exist. `reader` verifies the
/// segment of each render record before it counts.
///
/// # Errors
/// If another coordinator takes over, or if the farm refuses to work for too long; the jobs' ends are not
/// reported then.
pub async fn run_farm(
    farm: &Farm,
    lease: &Lease,
    settings: FarmSettings,
    reader: SegmentReader,
    orders: mpsc::UnboundedReceiver<Order>,
    shutdown: Shutdown,
) -> Result<(), DispatchError> {
    // The future is boxed because it is too large to be part of the callers' futures.
    let run = async {
        let link = Arc::new(NatsLink::new(farm, reader));
        let mut dispatcher = Dispatcher::open(link, lease, settings, orders).await?;
        dispatcher.run(shutdown).await
    };
    Box::pin(run).await
}

/// Runs a job to its end, or until `shutdown`. This process becomes the farm's coordinator, and stops at once
/// if another one takes over. `reader` verifies the segment of each render record before it counts.
pub async fn run_job(
    farm: &Farm,
    planned: PlannedJob,
    settings: DispatchSettings,
    reader: SegmentReader,
    observer: mpsc::UnboundedSender<JobEvent>,
    shutdown: Shutdown,
) -> Result<OnlyJob, DispatchError> {
    let DispatchSettings { farm: of_farm, job } = settings;
    let ensured = topology::ensure(&farm.connection.context, &farm.topology).await;
    ensured.map_err(DispatchError::at("prepare the farm's streams"))?;
    let known = manifest::ensure(&farm.connection, &job.job_dir, &planned.spec).await?;
    let (holder, time) = (of_farm.holder.clone(), of_farm.lease_time);
    let lease = Lease::acquire(&farm.connection, &holder, time, of_farm.contention).await;
    let lease = lease.map_err(DispatchError::Lease)?;
    tracing::debug!(job = %planned.spec.id, ?known, epoch = lease.epoch(), "dispatching");

    let (orders, only_one) = mpsc::unbounded_channel();
    let (ended, end) = oneshot::channel();
    let admission = Admission {
        planned,
        settings: job,
        observer,
        ended,
    };
    // The receiver is here, and takes no other order.
    drop(orders.send(Order::Admit(Box::new(admission))));
    drop(orders);
    let driven = run_farm(farm, &lease, of_farm, reader, only_one, shutdown).await;
    let end = match driven {
        // A farm that was asked to end before it took the job has not begun it.
        Ok(()) => end.await.unwrap_or_else(|_never_begun| Ok(JobEnd::not_begun())),
        Err(error) => Err(error),
    };
    match end {
        Ok(end) => Ok(OnlyJob { end, lease }),
        Err(error) => {
            // A lost lease belongs to another coordinator.
            if lease.is_held() {
                lease.release().await;
            }
            Err(error)
        }
    }
}
