//! A real server for the tests, which ends with its guard, and the messages that the tests send over it.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod proxy;

use std::path::{Path, PathBuf};
use std::time::Duration;

use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::nats::server::{EmbeddedServer, ServerBinary, ServerOptions, check, locate};
use latentfarm_common::nats::topology::{self, Topology};
use latentfarm_common::nats::{Connection, connect};
use latentfarm_common::queues::{Queue, ResourceClass};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::SourceSpec;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, StageTimings};
use latentfarm_common::wire::task::{AnalyzeTask, Task, TaskBody};

/// Limit of every wait in these tests; none takes nearly this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Finds the server that `LATENTFARM_NATS_SERVER` names, or else the one in the workspace's `.cache/bin` or
/// on `PATH`.
pub(crate) async fn server_binary() -> ServerBinary {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/bin/nats-server");
    let named = std::env::var_os("LATENTFARM_NATS_SERVER").is_some();
    let found = if !named && cached.is_file() {
        check(cached).await
    } else {
        locate(None).await
    };
    found.expect("these tests need a nats-server")
}

pub(crate) fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

/// A server with a topology, the coordinator's connection and two workers, `w1` and `w2`.
pub(crate) struct Farm {
    pub(crate) server: EmbeddedServer,
    pub(crate) coordinator: Connection,
    pub(crate) topology: Topology,
    pub(crate) dir: tempfile::TempDir,
}

impl Farm {
    pub(crate) async fn start() -> Self {
        Self::with(Topology::default()).await
    }

    pub(crate) async fn with(topology: Topology) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = EmbeddedServer::start(options(dir.path()).await).await.unwrap();
        let coordinator = connect(&server.url(), &server.coordinator(), RetryLimit::Tries(1))
            .await
            .unwrap();
        topology::ensure(&coordinator.context, &topology).await.unwrap();
        Self {
            server,
            coordinator,
            topology,
            dir,
        }
    }

    pub(crate) async fn worker(&self, name: &str) -> Connection {
        let identity = self.server.worker(&worker(name)).unwrap();
        connect(&self.server.url(), &identity, RetryLimit::Tries(1))
            .await
            .unwrap()
    }
}

pub(crate) async fn options(dir: &Path) -> ServerOptions {
    let workers = vec![worker("w1"), worker("w2")];
    ServerOptions::new(server_binary().await, dir.join("nats"), workers)
}

pub(crate) fn job(seed: &str) -> JobId {
    JobId::from_digest(&Digest::of(seed.as_bytes()))
}

pub(crate) fn chunk(index: u32) -> ChunkId {
    ChunkId {
        job: job("a job"),
        work: WorkKind::Analyze,
        index,
    }
}

pub(crate) fn queue() -> Queue {
    Queue::any(ResourceClass::Analyze, 1)
}

pub(crate) fn blob(text: &str) -> BlobRef {
    BlobRef {
        digest: Digest::of(text.as_bytes()),
        bytes: text.len() as u64,
    }
}

pub(crate) fn record(chunk: ChunkId, worker_name: &str) -> DoneRecord {
    DoneRecord {
        chunk,
        attempt: Attempt { epoch: 1, number: 0 },
        worker: worker(worker_name),
        numerics_fingerprint: "test".to_owned(),
        kind: None,
        artifact: blob(worker_name),
        body: DoneBody::Analyze {
            frames: 16,
            with_face: 3,
        },
        timings: StageTimings::default(),
        memory: None,
    }
}

pub(crate) fn task(chunk: ChunkId, number: u32, store: &str) -> Task {
    use latentfarm_common::frame::{Colour, ColourMatrix, ColourRange, PictureFormat};
    use latentfarm_common::time::{FrameRange, TimeBase};

    let colour = Colour {
        matrix: ColourMatrix::Bt709,
        range: ColourRange::Limited,
        primaries_tag: 2,
        transfer_tag: 2,
        matrix_tag: 2,
        range_tagged: false,
    };
    let source = SourceSpec {
        picture: PictureFormat {
            width: 64,
            height: 64,
            colour,
            sample_aspect: (1, 1),
        },
        time_base: TimeBase { num: 1, den: 90_000 },
        frames: 64,
    };
    Task {
        chunk,
        attempt: Attempt { epoch: 1, number },
        store: store.to_owned(),
        excluded: Vec::new(),
        needed_tags: Tags::NONE,
        body: TaskBody::Analyze(AnalyzeTask {
            source,
            range: FrameRange::new(0, 16),
            input: blob("input"),
        }),
    }
}

/// Writes a file in a test's directory and returns its path.
pub(crate) fn file_in(dir: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// Calls `look` every 20 ms until it returns something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let found = async {
        loop {
            ticks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(LIMIT, found)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}
