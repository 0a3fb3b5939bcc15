//! Spot checks: a sample of the chunks is rendered again on another worker of the same kind, and compared.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::ids::{Attempt, ChunkId, WorkKind};
use latentfarm_common::nats::tasks::TaskStream;
use latentfarm_common::nats::{connect, events};
use latentfarm_common::wire::outcome::{DoneBody, Event, EventKind};
use latentfarm_coordinator::dispatch::{
    Disagreement, Ending, JobEnd, JobEvent, SegmentCheck, SpotCheckReport,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::{
    Act, AttemptCounter, FakeMachine, FakeWorker, LIMIT, Run, Script, Stage, always, transient,
};

/// A farm that checks every chunk. Its workers begin when all of them have joined: a result can be checked from the first
/// on.
struct Scene {
    stage: Stage,
    counter: AttemptCounter,
    gate: watch::Sender<bool>,
}

impl Scene {
    async fn open() -> Self {
        let mut stage = Stage::open(64).await;
        stage.settings.farm.spot_check = NonZeroU32::new(1);
        Self {
            stage,
            counter: AttemptCounter::default(),
            gate: watch::channel(false).0,
        }
    }

    async fn worker(&self, name: &str, machine: FakeMachine, script: Script) -> FakeWorker {
        self.stage.worker_on(name, &self.counter, machine, script).await
    }

    /// A script that analyses once all have joined, and follows `script` from then on.
    fn then(&self, script: Script) -> Script {
        let opened = self.gate.subscribe();
        Arc::new(move |task, before| {
            if task.chunk.work == WorkKind::Analyze {
                Act::Wait(opened.clone())
            } else {
                script(task, before)
            }
        })
    }

    fn honest(&self) -> Script {
        self.then(always(Act::Succeed))
    }

    /// Dispatches the job, and lets the workers begin when so many have joined.
    async fn dispatch(&self, check: SegmentCheck, workers: usize) -> Run {
        let mut run = self.stage.dispatch_with(self.stage.settings.clone(), check).await;
        // Of those who joined before the job was admitted, it sees the heartbeats only.
        let mut joined = BTreeSet::new();
        run.wait_for("all workers have joined", |event| {
            if let JobEvent::Heartbeat(heartbeat) = event {
                joined.insert(heartbeat.worker.clone());
            }
            joined.len() == workers
        })
        .await;
        self.gate.send_replace(true);
        run
    }
}

async fn complete(run: Run) -> JobEnd {
    let ended = run.end().await.unwrap();
    assert_eq!(ended.ending, Ending::Complete);
    ended
}

fn accept() -> SegmentCheck {
    Arc::new(|_, _, _| Ok(()))
}

fn wrong() -> FakeMachine {
    FakeMachine {
        is_wrong: true,
        ..FakeMachine::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_result_is_confirmed_by_another_worker_once() {
    let scene = Scene::open().await;
    let _w1 = scene.worker("w1", FakeMachine::default(), scene.honest()).await;
    let _w2 = scene.worker("w2", FakeMachine::default(), scene.honest()).await;
    let ended = complete(scene.dispatch(accept(), 2).await).await;
    let begun = scene.counter.begun();
    let checks = || {
        begun
            .iter()
            .filter(|(chunk, _)| chunk.work == WorkKind::SpotCheck)
    };
    assert_eq!(checks().count(), 4);
    assert!(begun.values().all(|times| *times == 1), "{begun:?}");
    let report = SpotCheckReport {
        agreed: 4,
        ..SpotCheckReport::default()
    };
    assert_eq!(ended.report.spot_checks, report);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_cannot_confirm_a_result_do_not_hold_it_up() {
    let scene = Scene::open().await;
    let _w1 = scene.worker("w1", FakeMachine::default(), scene.honest()).await;
    let of_another_kind = FakeMachine {
        rounds_like: "another kind",
        ..FakeMachine::default()
    };
    let _w2 = scene.worker("w2", of_another_kind, scene.honest()).await;
    let ended = complete(scene.dispatch(accept(), 2).await).await;
    let report = SpotCheckReport {
        not_compared: 4,
        ..SpotCheckReport::default()
    };
    assert_eq!(ended.report.spot_checks, report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_result_is_replaced_and_its_worker_set_aside_when_a_third_decides() {
    let scene = Scene::open().await;
    // The honest workers render nothing before the wrong one has, which vanishes when it begins another chunk.
    let (gate, opened) = watch::channel(false);
    let honest = scene.then(Arc::new(move |task, _| {
        if task.chunk.work == WorkKind::Render {
            Act::Wait(opened.clone())
        } else {
            Act::Succeed
        }
    }));
    let rendered = AtomicU32::new(0);
    let vanishes = scene.then(Arc::new(move |task, _| {
        let is_first = task.chunk.work != WorkKind::Render || rendered.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first { Act::Succeed } else { Act::Die }
    }));
    let _w1 = scene
        .worker("w1", FakeMachine::default(), Arc::clone(&honest))
        .await;
    let _w2 = scene.worker("w2", FakeMachine::default(), honest).await;
    let _w3 = scene.worker("w3", wrong(), vanishes).await;
    let check: SegmentCheck = Arc::new(move |record, _, _| {
        if record.worker.as_str() == "w3" {
            gate.send_replace(true);
        }
        Ok(())
    });
    let ended = complete(scene.dispatch(check, 3).await).await;
    let right = FakeMachine::default().frame_hash();
    for record in &ended.records {
        let DoneBody::Render { frame_hashes, .. } = &record.body else {
            continue;
        };
        assert!(frame_hashes.iter().all(|hash| *hash == right), "{record:?}");
    }
    let odd = "w3".parse().unwrap();
    let found = &ended.report.spot_checks.disagreements;
    // It may have been asked to check others' results too, before it was found out.
    assert!(found.iter().any(|found| found.workers[0] == odd), "{found:?}");
    for found in found {
        assert_eq!((found.workers.len(), found.odd.as_ref()), (3, Some(&odd)));
    }
    assert!(ended.report.set_aside[&odd].reason.contains("both rendered"));
    assert_eq!(ended.report.set_aside.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_differ_are_both_reported_and_neither_is_set_aside() {
    let scene = Scene::open().await;
    let _w1 = scene.worker("w1", FakeMachine::default(), scene.honest()).await;
    let _w2 = scene.worker("w2", wrong(), scene.honest()).await;
    let ended = complete(scene.dispatch(accept(), 2).await).await;
    let checks = &ended.report.spot_checks;
    assert_eq!((checks.agreed, checks.disagreements.len()), (0, 4), "{checks:?}");
    for Disagreement { workers, odd, .. } in &checks.disagreements {
        assert_eq!((workers.len(), odd.as_ref()), (2, None));
    }
    assert_eq!(ended.report.set_aside.len(), 0);
    assert_eq!(ended.report.retries.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cannot_call_off_the_check_of_its_own_result() {
    let scene = Scene::open().await;
    // The first worker renders two chunks, and each then holds one until the gate opens.
    let (gate, opened) = watch::channel(false);
    let rendered = AtomicU32::new(0);
    let waiting = opened.clone();
    let first = scene.then(Arc::new(move |task, _| {
        let waits = task.chunk.work == WorkKind::Render && rendered.fetch_add(1, Ordering::SeqCst) >= 2;
        if waits {
            Act::Wait(waiting.clone())
        } else {
            Act::Succeed
        }
    }));
    let second = scene.then(Arc::new(move |task, _| {
        if task.chunk.work == WorkKind::Render {
            Act::Wait(opened.clone())
        } else {
            Act::Succeed
        }
    }));
    let _w1 = scene.worker("w1", FakeMachine::default(), first).await;
    let _w2 = scene.worker("w2", FakeMachine::default(), second).await;
    let mut run = scene.dispatch(accept(), 2).await;

    let job = scene.stage.spec.id;
    let tasks = TaskStream::new(&scene.stage.farm.connection, scene.stage.farm.topology);
    let is_check = |chunk: &ChunkId| chunk.work == WorkKind::SpotCheck;
    let checks = timeout(LIMIT, async {
        loop {
            let queued = tasks.queued(job).await.unwrap();
            let checks: Vec<ChunkId> = queued.iter().map(|(_, chunk)| *chunk).filter(is_check).collect();
            if checks.len() == 2 {
                return checks;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let checks = checks.await.expect("the results of the first worker are checked");
    let identity = scene.stage.server.worker(&"w1".parse().unwrap()).unwrap();
    let liar = connect(&scene.stage.server.url(), &identity, RetryLimit::Tries(1))
        .await
        .unwrap();
    let mut held = (0..4).map(|index| ChunkId {
        job,
        work: WorkKind::Render,
        index,
    });
    let is_held = |chunk: &ChunkId| checks.iter().all(|check| check.index / 2 != chunk.index);
    let held = held.find(is_held).expect("a chunk that is held");
    // Events are read in order: the one about the chunk that is held shows that the one before was read. More of them
    // would have the worker set aside.
    for chunk in [checks[0], held] {
        let failed = Event {
            chunk,
            attempt: Attempt::default(),
            worker: "w1".parse().unwrap(),
            kind: EventKind::Failed(transient()),
        };
        events::publish(&liar, &failed, LIMIT).await.unwrap();
    }
    run.wait_for("an attempt has failed", |event| {
        matches!(event, JobEvent::ChunkRequeued { .. })
    })
    .await;
    gate.send_replace(true);
    let ended = complete(run).await;
    assert_eq!(ended.report.spot_checks.not_compared, 0);
    assert_eq!(ended.report.spot_checks.agreed, 4);
}
