//! A done record counts only as that of the worker that it names: its worker has signed it and has begun the attempt.
//! The workers here have the keys and the permissions of a real farm.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::ids::{Attempt, ChunkId, WorkKind, WorkerId};
use latentfarm_common::nats::done::{CommitOutcome, DoneLog};
use latentfarm_common::nats::signature::{KEY_HEADER, SIGNATURE_HEADER};
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::nats::topology::JOBS_BUCKET;
use latentfarm_common::nats::{Connection, connect, events, heartbeats};
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, Event, EventKind, Heartbeat, StageTimings};
use latentfarm_coordinator::dispatch::{Ending, JobEvent, RetryClass};
use tokio::sync::watch;

use crate::support::{
    Act, AttemptCounter, FakeMachine, FakeWorker, LIMIT, Run, Script, Stage, always, is_render,
};

/// The chunk that the worker `w1` has begun, and does not finish before the gate opens.
const HELD: u32 = 1;

/// A farm on which `w1` holds a chunk, and a connection with the key of `w2`.
struct Scene {
    stage: Stage,
    run: Run,
    chunk: ChunkId,
    attempt: Attempt,
    gate: watch::Sender<bool>,
    w2: Connection,
    _w1: FakeWorker,
}

impl Scene {
    async fn open() -> Self {
        let stage = Stage::open(64).await;
        let (gate, closed) = watch::channel(false);
        let script: Script = Arc::new(move |task, _| {
            if is_render(task, HELD) {
                Act::Wait(closed.clone())
            } else {
                Act::Succeed
            }
        });
        let w1 = stage.worker("w1", &AttemptCounter::default(), script).await;
        let mut run = stage.dispatch().await;
        let begun = run.wait_for("w1 has begun the chunk", is_begun_by("w1")).await;
        let JobEvent::ChunkStarted { chunk, attempt, .. } = begun else {
            unreachable!("the condition accepts nothing else");
        };
        let w2 = connection(&stage, "w2").await;
        Self {
            stage,
            run,
            chunk,
            attempt,
            gate,
            w2,
            _w1: w1,
        }
    }

    /// A record of the held chunk that would pass the verification.
    async fn record(&self, worker: &str) -> DoneRecord {
        let artifact = self.stage.farm.store.put_bytes(b"another picture".to_vec());
        DoneRecord {
            chunk: self.chunk,
            attempt: self.attempt,
            worker: worker.parse().unwrap(),
            numerics_fingerprint: "another".to_owned(),
            kind: None,
            artifact: artifact.await.unwrap(),
            body: DoneBody::Render {
                frame_hashes: vec![FakeMachine::default().frame_hash(); 16],
                lips: vec![None; 16],
                synced: 16,
                passed: 0,
            },
            timings: StageTimings::default(),
            memory: None,
        }
    }

    /// Has `w2` write a record with any headers, as a program of its own could.
    async fn write(&self, record: &DoneRecord, headers: &[(&str, String)]) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.as_str());
        }
        let payload = wire::encode(record).unwrap();
        let message = PublishMessage::build().payload(payload.into()).headers(map);
        let subject = Subject::Done(record.chunk).to_string();
        self.w2.publish(subject, message).await.unwrap();
    }

    /// Has `w2` sign and write a record.
    async fn commit(&self, record: &DoneRecord) {
        let committed = DoneLog::new(&self.w2).commit(record).await.unwrap();
        assert!(matches!(committed, CommitOutcome::Won { .. }), "{committed:?}");
    }

    /// Has `w2` send a heartbeat with its key, as a worker without memory to which nothing is given.
    async fn announce(&self) {
        let heartbeat = Heartbeat::starting("w2".parse().unwrap(), "cpu".to_owned());
        heartbeats::publish(&self.w2, &heartbeat).await.unwrap();
        self.w2.client.flush().await.unwrap();
    }

    /// Waits until the record is rejected for a reason with these words, and has the worker of the chunk finish it.
    async fn rejects(mut self, reason_with: &str) {
        let rejected = |event: &JobEvent| match event {
            JobEvent::ChunkRequeued { chunk, reason, .. } => {
                assert!(reason.contains(reason_with), "{reason}");
                *chunk == self.chunk
            }
            _ => false,
        };
        self.run.wait_for("the record is rejected", rejected).await;
        self.gate.send_replace(true);
        let result = self.run.end().await.unwrap();
        assert_eq!(result.ending, Ending::Complete);
        let w1: WorkerId = "w1".parse().unwrap();
        assert!(result.records.iter().all(|record| record.worker == w1));
        assert!(
            result
                .records
                .iter()
                .all(|record| record.numerics_fingerprint == "fake")
        );
        assert_eq!(result.report.retries.get(&RetryClass::ForgedResult), Some(&1));
        assert_eq!(result.report.retries.get(&RetryClass::BadResult), None);
    }
}

fn is_begun_by(name: &'static str) -> impl FnMut(&JobEvent) -> bool {
    move |event| {
        matches!(event, JobEvent::ChunkStarted { chunk, worker, .. }
            if chunk.work == WorkKind::Render && chunk.index == HELD && worker.as_str() == name)
    }
}

async fn connection(stage: &Stage, name: &str) -> Connection {
    let identity = stage.server.worker(&name.parse().unwrap()).unwrap();
    let connected = connect(&stage.server.url(), &identity, RetryLimit::Tries(1)).await;
    connected.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_the_name_of_another_worker_is_rejected() {
    let scene = Scene::open().await;
    scene.announce().await;
    scene.commit(&scene.record("w1").await).await;
    scene.rejects("of w2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_announced_in_the_name_of_another_worker() {
    let scene = Scene::open().await;
    // The server lets `w2` publish under its own subjects only; what the messages say is up to it.
    let heartbeat = Heartbeat::starting("w1".parse().unwrap(), "cpu".to_owned());
    let mut headers = HeaderMap::new();
    headers.insert(KEY_HEADER, scene.w2.key().unwrap().to_string());
    let subject = Subject::Heartbeat("w2".parse().unwrap()).to_string();
    let payload = wire::encode(&heartbeat).unwrap();
    let sent = scene
        .w2
        .client
        .publish_with_headers(subject, headers, payload.into());
    sent.await.unwrap();
    scene.w2.client.flush().await.unwrap();
    scene.commit(&scene.record("w1").await).await;
    scene.rejects("which w1 has not announced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_a_changed_signature_is_rejected() {
    let scene = Scene::open().await;
    let w1 = connection(&scene.stage, "w1").await;
    // A true signature of the holder's, of another chunk, and with a bit changed.
    let other = ChunkId {
        index: 100,
        ..scene.chunk
    };
    let signed = DoneRecord {
        chunk: other,
        ..scene.record("w1").await
    };
    DoneLog::new(&w1).commit(&signed).await.unwrap();
    let stream = scene.stage.farm.connection.context.get_stream("FARM_DONE").await;
    let subject = Subject::Done(other).to_string();
    let stored = stream
        .unwrap()
        .direct_get_last_for_subject(subject)
        .await
        .unwrap();
    let signature = stored.headers.get(SIGNATURE_HEADER).unwrap().to_string();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    let headers = [
        (KEY_HEADER, w1.key().unwrap().to_string()),
        (SIGNATURE_HEADER, format!("{first}{}", &signature[1..])),
    ];
    scene.write(&scene.record("w1").await, &headers).await;
    scene.rejects("its signature does not fit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_a_signature_is_rejected_if_its_worker_signs() {
    let scene = Scene::open().await;
    scene.write(&scene.record("w1").await, &[]).await;
    scene.rejects("it is not signed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_worker_that_has_not_begun_the_attempt_is_rejected() {
    let scene = Scene::open().await;
    scene.announce().await;
    scene.commit(&scene.record("w2").await).await;
    scene.rejects("w2 has not reported that it began").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_a_signature_counts_if_its_worker_announces_no_key() {
    let mut scene = Scene::open().await;
    let record = scene.record("w2").await;
    scene.write(&record, &[]).await;
    let started = Event {
        chunk: record.chunk,
        attempt: record.attempt,
        worker: record.worker.clone(),
        kind: EventKind::Started,
    };
    events::publish(&scene.w2, &started, LIMIT).await.unwrap();
    scene.run.wait_for("w2 has begun it", is_begun_by("w2")).await;
    // The record waits for the heartbeat.
    let heartbeat = Heartbeat::starting(record.worker.clone(), "cpu".to_owned());
    let subject = Subject::Heartbeat(record.worker.clone()).to_string();
    let payload = wire::encode(&heartbeat).unwrap();
    let sent = scene.w2.client.publish(subject, payload.into());
    sent.await.unwrap();
    scene
        .run
        .wait_for("the record counts", |event| {
            matches!(event, JobEvent::ChunkDone { chunk, worker, .. } if *chunk == record.chunk && *worker == record.worker)
        })
        .await;
    scene.gate.send_replace(true);
    assert_eq!(scene.run.end().await.unwrap().ending, Ending::Complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_a_worker_that_has_left_count_for_the_next_coordinator() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    let script: Script = Arc::new(|task, _| {
        if is_render(task, 3) {
            Act::Die
        } else {
            Act::Succeed
        }
    });
    let w1 = stage.worker("w1", &counter, script).await;
    let mut first = stage.dispatch().await;
    first
        .wait_for("w1 dies of the last chunk", |event| {
            matches!(event, JobEvent::ChunkStarted { chunk, .. } if chunk.work == WorkKind::Render && chunk.index == 3)
        })
        .await;
    let bucket = stage.farm.connection.context.get_key_value(JOBS_BUCKET).await;
    let bucket = bucket.unwrap();
    let stored = async {
        while bucket.get("keys.w1").await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, stored).await.unwrap();
    first.job.abort();
    drop(w1);

    let second = stage
        .dispatch_with(stage.seizing(), Arc::new(|_, _, _| Ok(())))
        .await;
    let _w2 = stage.worker("w2", &counter, always(Act::Succeed)).await;
    let result = second.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    let by: Vec<&str> = result
        .records
        .iter()
        .map(|record| record.worker.as_str())
        .collect();
    assert_eq!(by, ["w1", "w1", "w1", "w2"]);
    assert_eq!(result.report.retries.get(&RetryClass::ForgedResult), None);
}
