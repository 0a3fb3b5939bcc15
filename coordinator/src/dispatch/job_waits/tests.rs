use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, JobId, WorkKind, WorkerId};
use latentfarm_common::nats::Outage;
use latentfarm_common::queues::{Available, ResourceClass};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::memory::{DeviceKind, RenderMemory};
use latentfarm_common::wire::outcome::{Heartbeat, TaskProgress, TaskStage, WorkerState};

use super::*;
use crate::dispatch::settings::DispatchSettings;
use crate::dispatch::wait_reason::{self, FarmView, Refusal, of_video};
use crate::job::chunk::event::ChunkEvent;
use crate::job::chunks::Chunks;
use crate::job::record::Unschedulable;
use crate::job::refusals::Refusals;
use crate::job::segments::Segments;
use crate::job::test_support::segment;
use crate::placement::{JobNeeds, Largest, Shortage};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_mins(10);

fn settings() -> JobSettings {
    let mut settings = DispatchSettings::new("/nowhere".into(), JobNeeds::flat_cpu(3000)).job;
    settings.unplaceable_wait = LIMIT;
    settings.start_worker = "start one with `x`".to_owned();
    settings
}

const UP: FarmView<'_> = FarmView {
    url: "nats://farm:4222",
    outage: None,
    has_lease: true,
    refusal: None,
};

fn chunks() -> Chunks {
    let job = JobId::from_digest(&Digest::of(b"job"));
    let mut chunks = Chunks::new(job, vec![FrameRange::new(0, 16)], vec![FrameRange::new(0, 16)]);
    release(&mut chunks, WorkKind::Analyze);
    chunks
}

fn record(chunks: &mut Chunks, work: WorkKind) -> &mut ChunkRecord {
    let chunks = match work {
        WorkKind::Analyze => &mut chunks.analyze,
        WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => &mut chunks.render,
    };
    &mut chunks[0]
}

fn release(chunks: &mut Chunks, work: WorkKind) {
    record(chunks, work).apply(ChunkEvent::Released);
}

/// Queues the only chunk of a kind.
fn enqueue(chunks: &mut Chunks, work: WorkKind) {
    let attempt = Attempt::default();
    record(chunks, work).apply(ChunkEvent::Enqueued { attempt });
}

/// What keeps a job waiting that needs no tags.
fn reason(chunks: &Chunks, workers: &Workers, farm: FarmView<'_>) -> Option<WaitReason> {
    wait_reason::reason(chunks, &Tags::NONE, workers, farm)
}

fn no_workers() -> Workers {
    Workers::new(10 * SECOND, 30 * SECOND)
}

fn heartbeat(analyze: bool, free_mib: u64) -> Heartbeat {
    let host = |mib| RenderMemory {
        host_mib: Some(mib),
        device_mib: None,
    };
    Heartbeat {
        state: WorkerState::Idle,
        capacity: host(8000),
        available: Available {
            analyze,
            memory: host(free_mib),
        },
        ..Heartbeat::starting("w1".parse().unwrap(), "cpu".to_owned())
    }
}

fn one_worker(heartbeat: Heartbeat) -> Workers {
    let mut workers = no_workers();
    workers.record_heartbeat(heartbeat, Instant::now());
    workers
}

/// A heartbeat of a worker that holds a task of some other chunk.
fn busy() -> Heartbeat {
    let task = TaskProgress {
        chunk: ChunkId {
            job: JobId::from_digest(&Digest::of(b"another job")),
            work: WorkKind::Render,
            index: 0,
        },
        attempt: Attempt::default(),
        frames_done: 0,
        frames_total: 16,
        stage: TaskStage::Starting,
        queue: None,
        plan: None,
    };
    Heartbeat {
        state: WorkerState::Working,
        task: Some(task),
        ..heartbeat(false, 100)
    }
}

fn unschedulable(since: Instant) -> Unschedulable {
    let crowded = Largest {
        worker: "w1".parse().unwrap(),
        free_mib: 100,
        alone_mib: 8000,
    };
    Unschedulable {
        since,
        shortages: vec![Shortage {
            kind: DeviceKind::Cpu,
            need_mib: 3000,
            queue_mib: Some(3072),
            largest: Some(crowded.clone()),
            crowded: Some(crowded),
        }],
    }
}

#[test]
fn a_farm_without_workers_is_named_with_the_command_that_starts_one_and_ends_the_job() {
    let (chunks, settings, start) = (chunks(), settings(), Instant::now());
    let mut waits = JobWaits::default();
    let observed = |second: u32, workers: &Workers, waits: &mut JobWaits| {
        let reason = reason(&chunks, workers, UP);
        waits.observe(reason, &chunks.render, &settings, start + SECOND * second)
    };
    assert!(observed(0, &no_workers(), &mut waits).is_none());
    assert!(observed(9, &no_workers(), &mut waits).is_none());
    let event = observed(10, &no_workers(), &mut waits).unwrap();
    assert_eq!(
        event.to_string(),
        "waiting for 10 s: no worker has joined the farm: start one with `x`; given up in 10 min"
    );
    // A worker that joins begins the count anew.
    let joined = one_worker(heartbeat(true, 8000));
    let over = observed(500, &joined, &mut waits).unwrap();
    assert_eq!(over.to_string(), "the wait for the worker is over after 8 min");
    observed(501, &no_workers(), &mut waits);
    observed(1100, &no_workers(), &mut waits);
    assert_eq!(waits.starved(), None);
    observed(1101, &no_workers(), &mut waits);
    assert_eq!(
        waits.starved(),
        Some(
            "no worker has joined the farm, and 10 min have passed (--unplaceable-wait): start one with `x`"
        )
    );
}

#[test]
fn workers_that_cannot_run_the_tasks_are_listed_with_their_reasons_until_they_finish_one() {
    let mut workers = one_worker(heartbeat(true, 8000));
    let worker: WorkerId = "w1".parse().unwrap();
    workers.record_unfit(&worker, "its weights are other ones", Instant::now());
    let found = reason(&chunks(), &workers, UP).unwrap();
    assert!(found.is_stall());
    assert_eq!(
        found.to_string(),
        "no worker can run the tasks; w1 is unfit: its weights are other ones"
    );
    workers.record_heartbeat(heartbeat(true, 8000), Instant::now());
    assert!(
        reason(&chunks(), &workers, UP).is_some(),
        "a heartbeat proves nothing"
    );
    let finished = Heartbeat {
        finished: 1,
        ..heartbeat(true, 8000)
    };
    workers.record_heartbeat(finished, Instant::now());
    assert_eq!(reason(&chunks(), &workers, UP), None);
}

#[test]
fn every_other_wait_has_its_own_reason() {
    let outage = Outage {
        since: Instant::now(),
        failed_tries: 3,
        last_error: Some("IO error".to_owned()),
    };
    let down = FarmView {
        outage: Some(&outage),
        ..UP
    };
    let free = || one_worker(heartbeat(true, 8000));
    let lost = reason(&chunks(), &free(), down).unwrap();
    assert_eq!(
        lost.to_string(),
        "the NATS server at nats://farm:4222 does not answer (IO error)"
    );
    assert!(!lost.is_stall(), "an outage is no lack of workers");

    let crowded = one_worker(heartbeat(false, 100));
    assert_eq!(reason(&chunks(), &crowded, UP), Some(WaitReason::AnalysisMemory));

    let mut render = chunks();
    record(&mut render, WorkKind::Analyze).apply(ChunkEvent::Blocked {
        reason: "a test".to_owned(),
    });
    release(&mut render, WorkKind::Render);
    let blind = Heartbeat {
        capacity: RenderMemory::default(),
        ..heartbeat(true, 0)
    };
    assert_eq!(reason(&render, &one_worker(blind), UP), Some(WaitReason::Device));
    assert_eq!(
        reason(&render, &free(), UP),
        None,
        "it is published with the next placement"
    );
    record(&mut render, WorkKind::Render).unschedulable = Some(unschedulable(Instant::now()));
    let memory = reason(&render, &free(), UP).unwrap();
    assert_eq!(
        memory.to_string(),
        "1 chunk fits no worker: needs 2.9 GiB on the CPU, the largest free is 100 MiB; other processes hold 7.7 GiB \
         of the 7.8 GiB that w1 could offer"
    );

    let why_refused = |is_full| {
        let error = "a test".to_owned();
        let refusal = Refusal { error, is_full };
        let view = FarmView {
            refusal: Some(&refusal),
            ..UP
        };
        reason(&chunks(), &free(), view).unwrap().kind()
    };
    assert_eq!((why_refused(false), why_refused(true)), ("queue", "storage"));
    let lapsed = FarmView {
        has_lease: false,
        ..UP
    };
    assert_eq!(reason(&chunks(), &free(), lapsed).unwrap().kind(), "lease");
    let mut held = busy();
    held.task.as_mut().unwrap().stage = TaskStage::StoreFull;
    let full = reason(&chunks(), &one_worker(held), UP).unwrap();
    assert!(full.is_stall());
    assert_eq!(
        full.to_string(),
        "the farm's storage is full: w1 holds a result that cannot be stored"
    );

    let mut queued = chunks();
    enqueue(&mut queued, WorkKind::Analyze);
    let (queued_tasks, idle) = (1, 1);
    let begin = WaitReason::Begin {
        queued: queued_tasks,
        idle,
    };
    assert_eq!(reason(&queued, &free(), UP), Some(begin));
    let all_busy = reason(&queued, &one_worker(busy()), UP).unwrap();
    assert_eq!(
        all_busy.to_string(),
        "1 tasks are queued, and all workers have other ones"
    );
    let (attempt, worker) = (Attempt::default(), "w1".parse().unwrap());
    record(&mut queued, WorkKind::Analyze).apply(ChunkEvent::Started { attempt, worker });
    assert_eq!(reason(&queued, &free(), UP), None, "a worker is at work");
}

#[test]
fn a_chunk_that_is_refused_again_and_again_waits_for_memory_and_is_given_up() {
    let start = Instant::now();
    let mut chunks = chunks();
    release(&mut chunks, WorkKind::Render);
    let worker: WorkerId = "w1".parse().unwrap();
    let class = Some(ResourceClass::Cpu(3072));
    let refuse = |record: &mut ChunkRecord, second: u32| {
        let earlier = record.refusals.take();
        let now = start + SECOND * second;
        record.refusals = Some(Refusals::after(
            earlier.as_ref(),
            &worker,
            class,
            (3000, 2900),
            now,
        ));
    };
    let idle = one_worker(heartbeat(true, 8000));
    for second in [0, 1] {
        refuse(record(&mut chunks, WorkKind::Render), second);
    }
    let kind = |chunks: &Chunks| reason(chunks, &idle, UP).map(|reason| reason.to_string());
    assert_eq!(kind(&chunks), None, "another program may have come and gone");
    refuse(record(&mut chunks, WorkKind::Render), 3);
    assert_eq!(
        kind(&chunks).unwrap(),
        "1 chunk fits no worker: needs 2.9 GiB, and w1 had only 2.8 GiB free when it took the chunk (3 times)"
    );
    let mut given_up = |workers: &Workers, second: u32| {
        overdue(
            &mut chunks.render,
            (workers, &Tags::NONE),
            true,
            LIMIT,
            start + SECOND * second,
        )
    };
    assert_eq!(given_up(&idle, 599), []);
    // A worker that tries the chunk itself does not begin the count anew, one with another task does.
    let mut trying = busy();
    trying.task.as_mut().unwrap().chunk = chunks_id();
    assert_eq!(given_up(&one_worker(trying), 599), []);
    assert_eq!(
        given_up(&idle, 600).len(),
        1,
        "it is counted from the first refusal"
    );
    assert_eq!(given_up(&one_worker(busy()), 600), []);
    assert_eq!(given_up(&idle, 1199), []);
    assert_eq!(given_up(&idle, 1200).len(), 1);
}

/// The id of the only render chunk.
fn chunks_id() -> ChunkId {
    chunks().render[0].id
}

#[test]
fn a_chunk_is_given_up_when_others_hold_the_memory_and_not_while_a_fitting_worker_is_busy() {
    let start = Instant::now();
    let mut chunks = chunks();
    record(&mut chunks, WorkKind::Render).unschedulable = Some(unschedulable(start));
    let mut given_up = |workers: &Workers, is_up: bool, second: u32| {
        overdue(
            &mut chunks.render,
            (workers, &Tags::NONE),
            is_up,
            LIMIT,
            start + SECOND * second,
        )
    };
    let crowded = one_worker(heartbeat(true, 100));
    assert_eq!(given_up(&crowded, true, 599), []);
    assert_eq!(
        given_up(&one_worker(busy()), true, 700),
        [],
        "it may be the task's memory"
    );
    assert_eq!(given_up(&crowded, true, 1299), []);
    assert_eq!(
        given_up(&crowded, false, 1299),
        [],
        "an outage does not count either"
    );
    let [(_, reason)] = &given_up(&crowded, true, 1899)[..] else {
        panic!("it still waits")
    };
    assert!(reason.contains("other processes hold 7.7 GiB"), "{reason}");
    assert!(
        reason.contains("waited 10 min") && reason.contains("--unplaceable-wait"),
        "{reason}"
    );
    // A busy worker that could never hold the chunk does not count.
    let mut larger = unschedulable(start);
    larger.shortages[0].queue_mib = Some(16_384);
    record(&mut chunks, WorkKind::Render).unschedulable = Some(larger);
    let over = overdue(
        &mut chunks.render,
        (&one_worker(busy()), &Tags::NONE),
        true,
        LIMIT,
        start + LIMIT,
    );
    assert_eq!(over.len(), 1);
}

#[test]
fn a_job_whose_cut_chunks_are_done_waits_for_the_video_and_for_nothing_of_the_farm() {
    let job = JobId::from_digest(&Digest::of(b"job"));
    let mut chunks = Chunks::new(job, vec![FrameRange::new(0, 16)], vec![FrameRange::new(0, 16)]);
    let mut segments = Segments::new(64);
    segments.add(&segment(0, 16)).unwrap();
    assert_eq!(reason(&chunks, &one_worker(heartbeat(true, 8000)), UP), None);
    let found = of_video(&chunks, &segments).unwrap();
    assert_eq!((found.kind(), found.is_stall()), ("video", false));
    assert!(found.to_string().starts_with("only 16 of 64 frames"), "{found}");
    release(&mut chunks, WorkKind::Analyze);
    assert_eq!(of_video(&chunks, &segments), None, "there is work");
    enqueue(&mut chunks, WorkKind::Analyze);
    assert_eq!(of_video(&chunks, &segments), None);
}
