//! A worker that sends damaged, impossible and extreme messages does not end the coordinator, nor a job that
//! another worker does.

use std::sync::Arc;

use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::nats::connect;
use latentfarm_common::nats::subjects::{EventTag, Subject};
use latentfarm_common::queues::{Queue, ResourceClass};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryPlan, MemorySample, MemoryStage, MemoryUse, OutOfMemory, RenderMemory, StagePeak,
};
use latentfarm_common::wire::outcome::{
    DoneBody, DoneRecord, Event, EventKind, Failure, GpuStatus, Heartbeat, StageTimings, TaskProgress,
    TaskStage, WorkerState,
};
use latentfarm_common::wire::task::Task;
use latentfarm_common::wire::{self, Message};
use latentfarm_coordinator::dispatch::{Ending, JobEvent};
use strum::VariantArray as _;
use tokio::sync::watch;

use crate::mutate::{Random, mutate};
use crate::support::{Act, AttemptCounter, Script, Stage, always, begins, is_render};

/// Messages of each type that are sent.
const MESSAGES: u64 = 3000;
/// Bytes of the envelope before and after its payload.
const HEADER: usize = 8;
const CHECKSUM: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_worker_ends_neither_the_coordinator_nor_the_job() {
    let stage = Stage::open(160).await;
    let counter = AttemptCounter::default();
    let (gate, closed) = watch::channel(false);
    let late = move |task: &Task| is_render(task, 4).then(|| closed.clone());
    let script: Script = Arc::new(move |task, _| late(task).map_or(Act::Succeed, Act::Wait));
    let _w1 = stage.worker("w1", &counter, script).await;
    let mut run = stage.dispatch().await;
    run.wait_for("chunk 4 is begun", begins(4)).await;

    let liar: WorkerId = "w2".parse().unwrap();
    let identity = stage.server.worker(&liar).unwrap();
    let url = stage.server.url();
    let connection = connect(&url, &identity, RetryLimit::Tries(1)).await;
    let client = connection.unwrap().client;
    let heartbeats = heartbeats(&liar, stage.spec.id);
    let events = events(&liar, stage.spec.id);
    let records = records(&liar, stage.spec.id);
    let mut random = Random::new(1, 0);
    for _ in 0..MESSAGES {
        let tag = *random.pick(EventTag::VARIANTS);
        let index = u32::try_from(random.below(16)).unwrap() * 7;
        let event = Subject::Event {
            worker: liar.clone(),
            job: stage.spec.id,
            tag,
        };
        let messages = [
            (
                Subject::Heartbeat(liar.clone()),
                damaged(&heartbeats, &mut random),
            ),
            (event, damaged(&events, &mut random)),
            // No honest worker has these chunks: the first that reports a chunk is believed.
            (
                Subject::Done(chunk(stage.spec.id, WorkKind::Render, 100 + index)),
                damaged(&records, &mut random),
            ),
        ];
        for (subject, payload) in messages {
            client.publish(subject.to_string(), payload.into()).await.unwrap();
        }
    }
    client.flush().await.unwrap();

    // Heartbeats are read in order: when that of the third worker has arrived, all before it were read.
    let _w3 = stage.worker("w3", &counter, always(Act::Succeed)).await;
    run.wait_for(
        "w3 joined",
        |event| matches!(event, JobEvent::WorkerJoined { worker, .. } if worker.as_str() == "w3"),
    )
    .await;
    gate.send_replace(true);
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(result.records.len(), 10);
    assert!(result.records.iter().all(|record| record.worker != liar));
}

/// Damages the payload of one of the messages. Most are sealed again, so that their payload is read.
fn damaged(messages: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let message = random.pick(messages);
    let mut payload = message[HEADER..message.len() - CHECKSUM].to_vec();
    let other = random.pick(messages).clone();
    mutate(&mut payload, &other, 4, random);
    let mut sealed = [&message[..HEADER], &payload].concat();
    if random.below(16) > 0 {
        sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
    }
    sealed
}

fn encoded<M: Message>(messages: impl IntoIterator<Item = M>) -> Vec<Vec<u8>> {
    let messages = messages.into_iter();
    messages.map(|message| wire::encode(&message).unwrap()).collect()
}

fn chunk(job: JobId, work: WorkKind, index: u32) -> ChunkId {
    ChunkId { job, work, index }
}

/// Chunks of the job and of no job, each with the attempts that may be under way and the last one there is.
fn attempts(job: JobId) -> Vec<(ChunkId, Attempt)> {
    let chunks = [3, 4, 5, 9, 10, u32::MAX].map(|index| chunk(job, WorkKind::Render, index));
    let analyze = [0, u32::MAX].map(|index| chunk(job, WorkKind::Analyze, index));
    let numbers = [(0, 0), (u64::MAX, u32::MAX)].map(|(epoch, number)| Attempt { epoch, number });
    let chunks = chunks.into_iter().chain(analyze);
    chunks
        .flat_map(|chunk| numbers.map(|attempt| (chunk, attempt)))
        .collect()
}

fn heartbeats(worker: &WorkerId, job: JobId) -> Vec<Vec<u8>> {
    let extreme = u64::MAX;
    let sample = MemorySample {
        free: extreme,
        total: 0,
        own: extreme,
        reserved: extreme,
        reserved_peak: extreme,
        live: extreme,
        live_peak: 1,
        host_rss: extreme,
    };
    encoded(attempts(job).into_iter().map(|(chunk, attempt)| Heartbeat {
        state: WorkerState::Working,
        device_free_mib: extreme,
        host_rss_mib: extreme,
        // Nothing is placed on it: it would keep what it is given.
        capacity: RenderMemory::default(),
        task: Some(TaskProgress {
            chunk,
            attempt,
            frames_done: u32::MAX,
            frames_total: 0,
            stage: TaskStage::FaceAnalysis,
            queue: Some(Queue::any(ResourceClass::Analyze, 1)),
            plan: Some(MemoryPlan::Streamed),
        }),
        memory: Some(sample),
        gpu: Some(GpuStatus {
            temperature_c: Some(u32::MAX),
            ..GpuStatus::default()
        }),
        frames_per_second: f32::NAN,
        finished: extreme,
        ..Heartbeat::starting(worker.clone(), "cpu".to_owned())
    }))
}

fn events(worker: &WorkerId, job: JobId) -> Vec<Vec<u8>> {
    let shortage = OutOfMemory {
        kind: DeviceKind::Cpu,
        device: "cpu".to_owned(),
        stage: None,
        plan: MemoryPlan::Streamed,
        needed_at_least_mib: Some(u64::MAX),
        free_before_mib: u64::MAX,
        suspected: false,
    };
    let kinds = [
        EventKind::Started,
        EventKind::Released,
        EventKind::Failed(Failure::OutOfMemory(shortage)),
        EventKind::Failed(Failure::InsufficientMemory {
            device: "cpu".to_owned(),
            needed_mib: u64::MAX,
            free_mib: u64::MAX,
        }),
    ];
    let events = attempts(job).into_iter().flat_map(|(chunk, attempt)| {
        kinds.clone().map(|kind| Event {
            chunk,
            attempt,
            worker: worker.clone(),
            kind,
        })
    });
    encoded(events)
}

fn records(worker: &WorkerId, job: JobId) -> Vec<Vec<u8>> {
    let bodies = [
        DoneBody::Analyze {
            frames: u32::MAX,
            with_face: u32::MAX,
        },
        DoneBody::Render {
            frame_hashes: Vec::new(),
            lips: Vec::new(),
            synced: u32::MAX,
            passed: u32::MAX,
        },
    ];
    let peak = StagePeak {
        stage: MemoryStage::Audio,
        live_mib: u64::MAX,
        own_mib: u64::MAX,
    };
    let used = MemoryUse {
        kind: DeviceKind::Cpu,
        device: "cpu".to_owned(),
        plan: MemoryPlan::BatchedGuidance,
        predicted_mib: 0,
        peak_mib: u64::MAX,
        least_free_mib: 0,
        shortages: Vec::new(),
        stages: vec![peak],
    };
    let records = attempts(job).into_iter().flat_map(|(chunk, attempt)| {
        bodies.clone().map(|body| DoneRecord {
            chunk,
            attempt,
            worker: worker.clone(),
            numerics_fingerprint: String::new(),
            kind: None,
            artifact: BlobRef {
                digest: Digest::of(b"none"),
                bytes: u64::MAX,
            },
            body,
            timings: StageTimings {
                denoise_ms: u64::MAX,
                engine_ms: u64::MAX,
                ..StageTimings::default()
            },
            memory: Some(used.clone()),
        })
    });
    encoded(records)
}
