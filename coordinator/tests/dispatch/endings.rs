//! The ways in which a job ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::ids::WorkKind;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::tasks::TaskStream;
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, OutOfMemory};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_coordinator::dispatch::{Ending, JobEvent, RetryClass};
use latentfarm_coordinator::job::manifest;
use tokio::sync::watch;

use crate::support::{Act, AttemptCounter, Script, Stage, always, first_time, is_render, transient};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes_and_each_chunk_counts_once() {
    let stage = Stage::open(200).await;
    let counter = AttemptCounter::default();
    let _w1 = stage
        .worker("w1", &counter, first_time(3, Act::SucceedTwice))
        .await;
    let _w2 = stage
        .worker("w2", &counter, first_time(3, Act::SucceedTwice))
        .await;
    let only = stage.dispatch().await.end_with_lease().await.unwrap();

    let result = only.end;
    assert_eq!(result.ending, Ending::Complete);
    let indices: Vec<u32> = result.records.iter().map(|record| record.chunk.index).collect();
    assert_eq!(indices, (0..13).collect::<Vec<_>>(), "13 chunks, in order");
    assert_eq!(result.report.synced, 200);
    assert_eq!(result.report.passed, 0);
    assert_eq!(result.report.retries, BTreeMap::new());
    assert_eq!(result.report.render.denoise_ms, 130);
    assert_eq!(result.report.workers.values().sum::<u64>(), 26);
    assert!(only.lease.is_held());
    only.lease.release().await;

    let recorded = DoneLog::new(&stage.farm.connection)
        .list(stage.spec.id)
        .await
        .unwrap();
    assert_eq!(recorded.len(), 26);
    let task_stream = TaskStream::new(&stage.farm.connection, Topology::default());
    assert_eq!(
        task_stream.queued(stage.spec.id).await.unwrap(),
        [],
        "nothing is left in the queue"
    );
    assert_eq!(
        manifest::read(&stage.settings.job.job_dir).unwrap(),
        Some(stage.spec.clone())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_chunk_is_tried_again_and_a_hopeless_one_does_not_end_the_job() {
    let stage = Stage::open(96).await;
    let counter = AttemptCounter::default();
    let script: Script = Arc::new(|task, before| {
        if is_render(task, 1) && before == 0 {
            Act::Fail(transient())
        } else if is_render(task, 2) && before == 0 {
            Act::Fail(Failure::OutOfMemory(OutOfMemory {
                kind: DeviceKind::Cpu,
                device: "cpu".to_owned(),
                stage: Some(MemoryStage::Denoise),
                plan: MemoryPlan::default(),
                needed_at_least_mib: Some(4000),
                free_before_mib: 3000,
                suspected: false,
            }))
        } else if is_render(task, 3) {
            Act::Fail(transient())
        } else if is_render(task, 4) {
            Act::Fail(Failure::BadInput {
                message: "frame 70 of `a.mp4` cannot be decoded".to_owned(),
            })
        } else {
            Act::Succeed
        }
    });
    let _w1 = stage.worker("w1", &counter, script).await;
    let result = stage.dispatch().await.end().await.unwrap();

    let Ending::Incomplete { quarantined } = result.ending else {
        panic!("{:?}", result.ending)
    };
    let given_up: Vec<_> = quarantined
        .iter()
        .map(|given| (given.index, given.range, given.reason.as_str()))
        .collect();
    assert_eq!(
        given_up,
        [
            (
                3,
                FrameRange::new(48, 64),
                "gave up after 2 failed attempts (on w1); the last one: the link went down"
            ),
            (
                4,
                FrameRange::new(64, 80),
                "bad input: frame 70 of `a.mp4` cannot be decoded"
            ),
        ]
    );
    assert_eq!(result.records.len(), 4);
    let expected = [
        (RetryClass::OutOfMemory, 1),
        (RetryClass::Transient, 3),
        (RetryClass::BadInput, 1),
    ];
    assert_eq!(result.report.retries, BTreeMap::from(expected));
    let begun: Vec<usize> = counter
        .begun()
        .into_iter()
        .filter(|(chunk, _)| chunk.work == WorkKind::Render)
        .map(|(_, times)| times)
        .collect();
    assert_eq!(begun, [1, 2, 2, 2, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_without_any_face_is_rendered_only_if_allowed() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::FindNoFace)).await;
    let only = stage.dispatch().await.end_with_lease().await.unwrap();
    let result = only.end;
    assert_eq!(result.ending, Ending::NoFace);
    assert!(result.records.is_empty());
    assert_eq!(result.report.without_face, [FrameRange::new(0, 64)]);
    only.lease.release().await;

    let mut allowed = stage.settings.clone();
    allowed.job.allow_no_face = true;
    let result = stage
        .dispatch_with(allowed, Arc::new(|_, _, _| Ok(())))
        .await
        .end()
        .await
        .unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!((result.report.synced, result.report.passed), (0, 64));
    let analysed_twice = counter.begun().into_values().any(|times| times > 1);
    assert!(!analysed_twice, "the analysis of the first run is used");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_under_way_and_takes_nothing_new() {
    let stage = Stage::open(160).await;
    let counter = AttemptCounter::default();
    let (gate, closed) = watch::channel(false);
    let script: Script = Arc::new(move |task, _| match task.chunk.work {
        WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => Act::Wait(closed.clone()),
        WorkKind::Analyze => Act::Succeed,
    });
    let _w1 = stage.worker("w1", &counter, script).await;
    let mut run = stage.dispatch().await;
    run.wait_for(
        "a render chunk is begun",
        |event| matches!(event, JobEvent::ChunkStarted { chunk, .. } if chunk.work == WorkKind::Render),
    )
    .await;
    run.trigger.drain();
    let task_stream = TaskStream::new(&stage.farm.connection, Topology::default());
    while task_stream
        .queued(stage.spec.id)
        .await
        .unwrap()
        .iter()
        .filter(|(_, chunk)| chunk.work == WorkKind::Render)
        .count()
        > 1
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gate.send_replace(true);
    let result = run.end().await.unwrap();
    let Ending::Interrupted { frames_done, frames } = result.ending else {
        panic!("{:?}", result.ending)
    };
    assert_eq!((frames_done, frames), (16, 160));
    assert_eq!(result.records.len(), 1);
}
