//! A real server, a made-up job, and fake workers inside the test's process that follow a script.

mod farm;
mod machine;
mod scripts;
mod worker;

#[path = "../../../src/dispatch/test_support.rs"]
mod test_support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::backoff::{Backoff, RetryLimit};
use latentfarm_common::blob::Store;
use latentfarm_common::frame::PictureDifference;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::lease::{Contention, LeaseTtl};
use latentfarm_common::nats::server::{EmbeddedServer, ServerBinary, ServerOptions, check, locate};
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::nats::{Connection, connect};
use latentfarm_common::shutdown::{self, Trigger};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_coordinator::dispatch::benchmark_job::{benchmark_job, benchmark_segments};
use latentfarm_coordinator::dispatch::{
    DispatchError, DispatchSettings, Farm, FarmSettings, JobEnd, JobEvent, JobNeeds, OnlyJob, PlannedJob,
    SegmentCheck, SegmentReader, Timeouts, run_job,
};
use latentfarm_coordinator::job::segments::{VideoNews, whole_video};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use machine::FakeMachine;
pub use scripts::{always, begins, first_time, is_render, transient};
pub use test_support::observations;
pub use worker::{Act, AttemptCounter, FakeWorker, Script};

/// What every comparison of two pictures measures.
pub const DIFFERENCE: PictureDifference = PictureDifference {
    squared_error: 5,
    samples: 100,
    largest: 1,
};

/// A test fails if one of its steps takes this long, which is far more than any needs.
pub const LIMIT: Duration = Duration::from_mins(1);

/// Finds the nats-server that `LATENTFARM_NATS_SERVER` names, or else one in the workspace's `.cache/bin` or
/// on `PATH`.
async fn server_binary() -> ServerBinary {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/bin/nats-server");
    let named = std::env::var_os("LATENTFARM_NATS_SERVER").is_some();
    let found = if !named && cached.is_file() {
        check(cached).await
    } else {
        locate(None).await
    };
    found.expect("these tests need a nats-server")
}

/// A server, a blob store and one job of as many source as output frames, in chunks of 16.
pub struct Stage {
    pub server: EmbeddedServer,
    pub farm: Farm,
    pub spec: JobSpec,
    pub timeline: Timeline,
    pub settings: DispatchSettings,
    _dir: tempfile::TempDir,
}

impl Stage {
    pub async fn open(frames: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workers: Vec<WorkerId> = ["w1", "w2", "w3", "w4"]
            .map(|name| name.parse().unwrap())
            .to_vec();
        let options = ServerOptions::new(server_binary().await, dir.path().join("nats"), workers);
        let server = EmbeddedServer::start(options).await.unwrap();
        let connection = coordinator(&server).await;
        let url = Store::file_url(&dir.path().join("blobs")).unwrap();
        let store = Store::open(&url, None).unwrap();
        let (spec, timeline) = benchmark_job(frames, frames);
        let mut settings = DispatchSettings::new(dir.path().join("job"), JobNeeds::flat_cpu(3000));
        settings.farm.lease_time = LeaseTtl::from_secs(30);
        settings.farm.timeouts = Timeouts {
            reconcile_interval: Duration::from_mins(1),
            worker_timeout: Duration::from_secs(3),
            report_wait: Duration::from_secs(2),
            placement_interval: Duration::from_millis(250),
            retry: Backoff::new(Duration::from_millis(50), Duration::from_millis(200)),
            adopt_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            reassign_delay: Duration::from_millis(100),
            set_aside: Backoff::new(Duration::from_secs(1), Duration::from_secs(2)),
            tenant_grace_period: Duration::from_mins(1),
        };
        let topology = Topology::default();
        Self {
            farm: Farm {
                connection,
                topology,
                store,
            },
            server,
            spec,
            timeline,
            settings,
            _dir: dir,
        }
    }

    /// Starts a worker on a CPU machine.
    pub async fn worker(&self, name: &str, counter: &AttemptCounter, script: Script) -> FakeWorker {
        self.worker_on(name, counter, FakeMachine::default(), script)
            .await
    }

    /// Starts a worker on the given machine.
    pub async fn worker_on(
        &self,
        name: &str,
        counter: &AttemptCounter,
        machine: FakeMachine,
        script: Script,
    ) -> FakeWorker {
        let identity = self.server.worker(&name.parse().unwrap()).unwrap();
        let connection = connect(&self.server.url(), &identity, RetryLimit::Tries(1))
            .await
            .unwrap();
        FakeWorker::start(name, connection, counter.clone(), script, machine)
    }

    /// Dispatches the job with a check that accepts every segment.
    pub async fn dispatch(&self) -> Run {
        self.dispatch_with(self.settings.clone(), Arc::new(|_, _, _| Ok(())))
            .await
    }

    /// Dispatches the job over a connection of its own, like another process. Its video has been cut.
    pub async fn dispatch_with(&self, settings: DispatchSettings, check: SegmentCheck) -> Run {
        let frames = u32::try_from(self.spec.source.frames).unwrap();
        let video = whole_video(benchmark_segments(frames));
        self.dispatch_video(video, settings, check).await
    }

    /// Dispatches the job while the test cuts its video.
    pub async fn dispatch_video(
        &self,
        video: mpsc::UnboundedReceiver<VideoNews>,
        settings: DispatchSettings,
        check: SegmentCheck,
    ) -> Run {
        let connection = coordinator(&self.server).await;
        let farm = Farm {
            connection,
            ..self.farm.clone()
        };
        let planned = PlannedJob {
            spec: self.spec.clone(),
            timeline: self.timeline.clone(),
            video,
        };
        let (observer, events) = mpsc::unbounded_channel();
        let (trigger, shutdown, _drain) = shutdown::channel();
        let reader = reader(check);
        let job =
            tokio::spawn(async move { run_job(&farm, planned, settings, reader, observer, shutdown).await });
        Run { job, events, trigger }
    }

    /// The settings of a coordinator that takes the lease from the one that holds it.
    pub fn seizing(&self) -> DispatchSettings {
        DispatchSettings {
            farm: FarmSettings {
                contention: Contention::Seize,
                holder: "the other one".to_owned(),
                ..self.settings.farm.clone()
            },
            job: self.settings.job.clone(),
        }
    }
}

/// Returns a reader of segments with this check, for which all pictures differ by [`DIFFERENCE`].
fn reader(check: SegmentCheck) -> SegmentReader {
    let compare = Arc::new(|_: &BlobRef, _: &BlobRef| Ok(DIFFERENCE));
    SegmentReader { check, compare }
}

async fn coordinator(server: &EmbeddedServer) -> Connection {
    connect(&server.url(), &server.coordinator(), RetryLimit::Tries(1))
        .await
        .unwrap()
}

/// A job that is being dispatched.
pub struct Run {
    pub job: JoinHandle<Result<OnlyJob, DispatchError>>,
    pub events: mpsc::UnboundedReceiver<JobEvent>,
    pub trigger: Trigger,
}

impl Run {
    pub async fn end(self) -> Result<JobEnd, DispatchError> {
        self.end_with_lease().await.map(|only| only.end)
    }

    /// As [`Run::end`], with the lease, which is still held.
    pub async fn end_with_lease(self) -> Result<OnlyJob, DispatchError> {
        tokio::time::timeout(LIMIT, self.job)
            .await
            .expect("the job does not end")
            .unwrap()
    }

    /// Waits for an event that `wanted` accepts.
    pub async fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&JobEvent) -> bool) -> JobEvent {
        let (events, job) = (&mut self.events, &mut self.job);
        let found = async {
            while let Some(event) = events.recv().await {
                if wanted(&event) {
                    return event;
                }
            }
            let ending = job.await.unwrap().map(|only| (only.end.ending, only.end.report));
            panic!("the job ended before: {what}: {ending:?}")
        };
        tokio::time::timeout(LIMIT, found)
            .await
            .unwrap_or_else(|_| panic!("never happened: {what}"))
    }
}
