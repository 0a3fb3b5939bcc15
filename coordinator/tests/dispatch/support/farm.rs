//! A farm to which a test gives orders.

use std::sync::Arc;

use latentfarm_common::ids::JobId;
use latentfarm_common::nats::lease::Lease;
use latentfarm_common::nats::topology;
use latentfarm_common::shutdown::{self, Trigger};
use latentfarm_common::wire::job::JobSpec;
use latentfarm_coordinator::dispatch::benchmark_job::{benchmark_job, benchmark_segments};
use latentfarm_coordinator::dispatch::{
    Admission, DispatchError, Ending, Farm, JobEnd, JobEvent, JobSettings, Order, PlannedJob, Progress,
    run_farm,
};
use latentfarm_coordinator::job::segments::whole_video;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{LIMIT, Stage};

/// A dispatcher that waits for orders.
pub struct RunningFarm {
    pub orders: mpsc::UnboundedSender<Order>,
    pub trigger: Trigger,
    settings: JobSettings,
    run: JoinHandle<Result<(), DispatchError>>,
}

/// A job that a farm was told to dispatch.
pub struct AdmittedJob {
    pub id: JobId,
    events: mpsc::UnboundedReceiver<JobEvent>,
    ended: oneshot::Receiver<Result<JobEnd, DispatchError>>,
}

impl Stage {
    /// Begins to run the farm, with a check that accepts every segment. The stage's own job is not used.
    pub async fn run_farm(&self) -> RunningFarm {
        let farm = Farm {
            connection: super::coordinator(&self.server).await,
            ..self.farm.clone()
        };
        let settings = self.settings.farm.clone();
        topology::ensure(&farm.connection.context, &farm.topology)
            .await
            .unwrap();
        let lease = Lease::acquire(
            &farm.connection,
            &settings.holder,
            settings.lease_time,
            settings.contention,
        );
        let lease = lease.await.unwrap();
        let (orders, ordered) = mpsc::unbounded_channel();
        let (trigger, shutdown, _drain) = shutdown::channel();
        let run = tokio::spawn(async move {
            run_farm(
                &farm,
                &lease,
                settings,
                super::reader(Arc::new(|_, _, _| Ok(()))),
                ordered,
                shutdown,
            )
            .await
        });
        RunningFarm {
            orders,
            trigger,
            settings: self.settings.job.clone(),
            run,
        }
    }
}

impl RunningFarm {
    /// Admits a job of as many source as output frames; jobs of the same length are the same job. Its video
    /// has been cut.
    pub fn admit(&self, frames: u32, priority: u8) -> AdmittedJob {
        self.admit_changed(frames, priority, |_| {})
    }

    /// Admits a job with another manifest.
    pub fn admit_changed(&self, frames: u32, priority: u8, change: impl FnOnce(&mut JobSpec)) -> AdmittedJob {
        let (mut spec, timeline) = benchmark_job(frames, frames);
        change(&mut spec);
        let id = spec.id;
        let (observer, events) = mpsc::unbounded_channel();
        let (sender, ended) = oneshot::channel();
        let settings = JobSettings {
            job_dir: self.settings.job_dir.join(id.to_string()),
            priority,
            ..self.settings.clone()
        };
        self.order(Order::Admit(Box::new(Admission {
            planned: PlannedJob {
                spec,
                timeline,
                video: whole_video(benchmark_segments(frames)),
            },
            settings,
            observer,
            ended: sender,
        })));
        AdmittedJob { id, events, ended }
    }

    pub fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    /// Closes the orders, and waits until the farm has ended.
    pub async fn end(self) {
        drop(self.orders);
        let ended = tokio::time::timeout(LIMIT, self.run).await;
        ended.expect("the farm does not end").unwrap().unwrap();
    }
}

impl AdmittedJob {
    /// Waits until the job's progress is one that `wanted` accepts.
    pub async fn wait_for(&mut self, what: &str, wanted: impl Fn(&Progress) -> bool) {
        let found = async {
            while let Some(event) = self.events.recv().await {
                if matches!(&event, JobEvent::Progress(progress) if wanted(progress)) {
                    return;
                }
            }
            panic!("the job ended before: {what}")
        };
        let found = tokio::time::timeout(LIMIT, found).await;
        found.unwrap_or_else(|_| panic!("never happened: {what}"));
    }

    pub async fn end(self) -> Result<JobEnd, DispatchError> {
        let ended = tokio::time::timeout(LIMIT, self.ended).await;
        ended.expect("the job does not end").unwrap()
    }

    /// Waits for the end of the job, and returns how it ended.
    pub async fn ending(self) -> Ending {
        self.end().await.unwrap().ending
    }
}
