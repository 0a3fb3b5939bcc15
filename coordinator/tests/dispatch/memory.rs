//! A chunk that runs out of memory gets another plan, another worker or the CPU, and is only then given up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryRequirements};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::TaskBody;
use latentfarm_coordinator::dispatch::{CpuFallback, Ending, JobEvent, JobNeeds, RetryClass};
use latentfarm_coordinator::journal::{self, JournalEntry};

use crate::support::{
    Act, AttemptCounter, FakeMachine, Script, Stage, always, begins, first_time, is_render,
};

const GPU: MemoryRequirements = MemoryRequirements {
    mib: [6000, 5000, 4000, 4000, 3000, 2500],
};

pub fn mixed() -> JobNeeds {
    JobNeeds {
        cpu: Some(MemoryRequirements {
            mib: [3000; MemoryPlan::COUNT],
        }),
        cuda: Some(GPU),
        media_mib: 100,
    }
}

/// The worker and the kind of device that rendered each chunk.
pub fn places(result: &latentfarm_coordinator::dispatch::JobEnd) -> Vec<(&str, DeviceKind)> {
    let place =
        |record: &Arc<latentfarm_common::wire::outcome::DoneRecord>| record.memory.as_ref().unwrap().kind;
    result
        .records
        .iter()
        .map(|record| (record.worker.as_str(), place(record)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mispredicted_chunk_climbs_the_ladder_and_ends_on_a_bigger_worker() {
    let mut stage = Stage::open(64).await;
    stage.settings.job.needs = mixed();
    let counter = AttemptCounter::default();
    let truth = Some(MemoryRequirements {
        mib: [9000, 8000, 7000, 7000, 6000, 5500],
    });
    let small = FakeMachine {
        truth,
        ..FakeMachine::gpu(4096)
    };
    let large = FakeMachine {
        truth,
        ..FakeMachine::gpu(8192)
    };
    let _w1 = stage.worker_on("w1", &counter, small, always(Act::Succeed)).await;
    let mut run = stage.dispatch().await;
    run.wait_for("the leanest plan is not enough", |event| {
        matches!(event, JobEvent::ChunkUnschedulable { .. })
    })
    .await;
    let _w2 = stage.worker_on("w2", &counter, large, always(Act::Succeed)).await;
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert!(
        places(&result)
            .iter()
            .all(|place| *place == ("w2", DeviceKind::Cuda))
    );
    let ooms = &result.report.ooms;
    let begun: usize = counter
        .begun()
        .into_iter()
        .filter(|(chunk, _)| is_r(chunk))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(
        ooms.len(),
        begun - 4,
        "every attempt that was not the last one ran out, and is recorded"
    );
    assert!(ooms.iter().any(|oom| oom.oom.plan == MemoryPlan::Streamed));
    for index in 0..4 {
        let of_chunk = ooms.iter().filter(|oom| oom.chunk.index == index);
        let plans: Vec<MemoryPlan> = of_chunk.map(|oom| oom.oom.plan).collect();
        assert!(plans.is_sorted_by(|before, after| before < after), "{plans:?}");
    }
    let lines = journal::read(&stage.settings.job.job_dir).unwrap();
    let failed = lines
        .iter()
        .filter(|line| matches!(line.entry, JournalEntry::Failed { .. }));
    assert_eq!(failed.count(), ooms.len());
    let taken = &result.report.memory.plans[&(DeviceKind::Cuda, MemoryPlan::Streamed)];
    assert_eq!((taken.chunks, taken.most_mib), (4, 5500));
}

fn is_r(chunk: &latentfarm_common::ids::ChunkId) -> bool {
    chunk.work == latentfarm_common::ids::WorkKind::Render
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_nowhere_waits_and_then_ends_with_the_figures() {
    let mut stage = Stage::open(32).await;
    stage.settings.job.needs = mixed();
    stage.settings.job.unplaceable_wait = Duration::from_secs(1);
    let counter = AttemptCounter::default();
    let _w1 = stage
        .worker_on("w1", &counter, FakeMachine::gpu(2400), always(Act::Succeed))
        .await;
    let mut run = stage.dispatch().await;
    let shown = run
        .wait_for(
            "the shortage is shown",
            |event| matches!(event, JobEvent::Progress(progress) if progress.waiting_for_memory == 2),
        )
        .await;
    let JobEvent::Progress(progress) = shown else {
        unreachable!()
    };
    let shortage = "needs 2.4 GiB, the largest free is 2.3 GiB";
    assert!(progress.shortage.unwrap().starts_with(shortage));
    let result = run.end().await.unwrap();
    let Ending::Failed { quarantined } = &result.ending else {
        panic!("{:?}", result.ending)
    };
    assert_eq!(quarantined.len(), 2);
    assert!(
        quarantined[0].reason.starts_with(shortage),
        "{}",
        quarantined[0].reason
    );
}

async fn with_fallback(fallback: CpuFallback, gpu: FakeMachine) -> Vec<(String, DeviceKind)> {
    let mut stage = Stage::open(128).await;
    stage.settings.job.needs = mixed();
    stage.settings.job.cpu_fallback = fallback;
    if fallback == CpuFallback::Never {
        stage.settings.job.unplaceable_wait = Duration::from_millis(500);
    }
    let counter = AttemptCounter::default();
    let _w1 = stage.worker_on("w1", &counter, gpu, always(Act::Succeed)).await;
    let mut run = stage.dispatch().await;
    // Both are known before the first chunk is placed, since analysis takes longer than a heartbeat.
    run.wait_for("w1 is known", |event| {
        matches!(event, JobEvent::WorkerJoined { .. })
    })
    .await;
    let _w2 = stage
        .worker_on("w2", &counter, FakeMachine::cpu(16_384), always(Act::Succeed))
        .await;
    let result = run.end().await.unwrap();
    places(&result)
        .into_iter()
        .map(|(worker, kind)| (worker.to_owned(), kind))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cpu_falls_in_by_the_policy() {
    let slow = FakeMachine::gpu(2400);
    let all_cpu = with_fallback(CpuFallback::Last, slow).await;
    assert_eq!(all_cpu.len(), 8);
    assert!(
        all_cpu
            .iter()
            .all(|(worker, kind)| worker == "w2" && *kind == DeviceKind::Cpu)
    );
    let nothing = with_fallback(CpuFallback::Never, slow).await;
    assert_eq!(nothing, [], "no GPU fits, and the CPU is not allowed");
    let unobserved = with_fallback(CpuFallback::Last, FakeMachine::gpu(8192)).await;
    assert!(unobserved.iter().all(|(_, kind)| *kind == DeviceKind::Cuda));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cpu_always_helps_where_that_is_asked_for() {
    let mut stage = Stage::open(64).await;
    stage.settings.job.needs = mixed();
    stage.settings.job.cpu_fallback = CpuFallback::Always;
    let counter = AttemptCounter::default();
    // The GPU does not finish before the CPU has rendered its share.
    let (gate, closed) = tokio::sync::watch::channel(false);
    let held: Script = Arc::new(move |task, _| match &task.body {
        TaskBody::Render(_) => Act::Wait(closed.clone()),
        TaskBody::Analyze(_) => Act::Succeed,
    });
    let _w1 = stage
        .worker_on("w1", &counter, FakeMachine::gpu(8192), held)
        .await;
    let _w2 = stage
        .worker_on("w2", &counter, FakeMachine::cpu(16_384), always(Act::Succeed))
        .await;
    let mut run = stage.dispatch().await;
    run.wait_for("the CPU finishes a chunk", |event| {
        matches!(event, JobEvent::ChunkDone { chunk, worker, .. } if is_r(chunk) && worker.as_str() == "w2")
    })
    .await;
    gate.send_replace(true);
    assert_eq!(run.end().await.unwrap().ending, Ending::Complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_survives_the_coordinator() {
    let mut stage = Stage::open(64).await;
    stage.settings.job.needs = mixed();
    // The first run ends in the middle.
    let script = first_time(3, Act::Die);
    let counter = AttemptCounter::default();
    let truth = Some(MemoryRequirements {
        mib: GPU.mib.map(|mib| mib * 3 / 2),
    });
    let machine = FakeMachine {
        truth,
        ..FakeMachine::gpu(10_240)
    };
    let first_worker = stage.worker_on("w1", &counter, machine, script).await;
    let mut first = stage.dispatch().await;
    first.wait_for("chunk 3 is begun", begins(3)).await;
    first
        .wait_for(
            "the others are done",
            |event| matches!(event, JobEvent::Progress(progress) if progress.render.done == 3),
        )
        .await;
    first.trigger.drain();
    first.trigger.stop();
    drop(first_worker);
    let ended = first.end_with_lease().await.unwrap();
    ended.lease.release().await;
    // Only the farm's bucket holds the observations of the first run.
    stage.settings.job.job_dir = stage.settings.job.job_dir.with_file_name("elsewhere");
    let _w2 = stage
        .worker_on("w2", &counter, machine, always(Act::Succeed))
        .await;
    let mut second = stage.dispatch().await;
    second.wait_for("chunk 3 is begun again", begins(3)).await;
    assert_eq!(second.end().await.unwrap().ending, Ending::Complete);
    let placed = journal::read(&stage.settings.job.job_dir).unwrap();
    let need = placed.iter().find_map(|line| match &line.entry {
        JournalEntry::Placed { chunk, needs, .. } if chunk.to_string() == "r00003" => Some(needs.leanest()),
        _ => None,
    });
    assert_eq!(need, Some(3750), "half as much again as predicted");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_was_gone_again_costs_the_chunk_nothing() {
    let stage = Stage::open(32).await;
    let counter = AttemptCounter::default();
    let script: Script = Arc::new(|task, before| {
        if is_render(task, 0) && before < 12 {
            Act::Fail(Failure::InsufficientMemory {
                device: "cpu".to_owned(),
                needed_mib: 3000,
                free_mib: 2000,
            })
        } else {
            Act::Succeed
        }
    });
    let _w1 = stage.worker("w1", &counter, script).await;
    let result = stage.dispatch().await.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(result.report.retries[&RetryClass::InsufficientMemory], 12);
    assert_eq!(result.report.ooms, []);
}

fn refuse() -> Act {
    Act::Fail(Failure::InsufficientMemory {
        device: "cpu".to_owned(),
        needed_mib: 3000,
        free_mib: 2900,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_its_class_refuses_again_and_again_moves_to_a_larger_one() {
    let stage = Stage::open(32).await;
    let counter = AttemptCounter::default();
    let script: Script = Arc::new(|task, before| {
        if is_render(task, 0) && before < 3 {
            refuse()
        } else {
            Act::Succeed
        }
    });
    let _w1 = stage.worker("w1", &counter, script).await;
    let result = stage.dispatch().await.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    let lines = journal::read(&stage.settings.job.job_dir).unwrap();
    let queues = lines.iter().filter_map(|line| match &line.entry {
        JournalEntry::Placed { chunk, queue, .. } if chunk.to_string() == "r00000" => {
            Some(queue.lane.class.mib())
        }
        _ => None,
    });
    let queues: Vec<u64> = queues.collect();
    assert_eq!(queues, [3072, 3072, 3072, 4096]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_every_worker_refuses_is_said_to_wait_and_is_given_up_in_time() {
    let mut stage = Stage::open(32).await;
    stage.settings.job.unplaceable_wait = Duration::from_secs(2);
    let counter = AttemptCounter::default();
    let script: Script = Arc::new(|task, _| {
        if is_render(task, 0) {
            refuse()
        } else {
            Act::Succeed
        }
    });
    let machine = FakeMachine::cpu(3100);
    let _w1 = stage.worker_on("w1", &counter, machine, script).await;
    let mut run = stage.dispatch().await;
    let mut requeues = 0;
    let wait = run
        .wait_for("the wait is reported", |event| {
            requeues += usize::from(matches!(event, JobEvent::ChunkRequeued { .. }));
            matches!(event, JobEvent::ChunkUnschedulable { .. })
        })
        .await;
    assert_eq!(requeues, 2, "what was refused twice may have been bad luck");
    let shortage = "needs 2.9 GiB, and w1 had only 2.8 GiB free when it took the chunk";
    assert!(wait.to_string().contains(shortage), "{wait}");
    run.wait_for("it is given up", |event| {
        let is_repeat = matches!(
            event,
            JobEvent::ChunkRequeued { .. } | JobEvent::ChunkUnschedulable { .. }
        );
        assert!(!is_repeat, "the wait was reported already: {event}");
        matches!(event, JobEvent::ChunkQuarantined { .. })
    })
    .await;
    let result = run.end().await.unwrap();
    let Ending::Incomplete { quarantined } = &result.ending else {
        panic!("{:?}", result.ending)
    };
    let reason = &quarantined[0].reason;
    assert!(
        reason.contains(shortage) && reason.contains("--unplaceable-wait"),
        "{reason}"
    );
    assert!(
        result.report.retries[&RetryClass::InsufficientMemory] > 3,
        "it was tried in the meantime"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_lost_over_a_chunk_raise_its_plan_floor() {
    let mut stage = Stage::open(16).await;
    stage.settings.job.needs = mixed();
    let counter = AttemptCounter::default();
    let floors: Arc<Mutex<Vec<MemoryPlan>>> = Arc::default();
    let noting = Arc::clone(&floors);
    let script: Script = Arc::new(move |task, before| match &task.body {
        TaskBody::Render(render) => {
            noting.lock().unwrap().push(render.memory.floor);
            if before < 2 { Act::Die } else { Act::Succeed }
        }
        TaskBody::Analyze(_) => Act::Succeed,
    });
    let mut workers = Vec::new();
    for name in ["w1", "w2", "w3"] {
        workers.push(
            stage
                .worker_on(name, &counter, FakeMachine::gpu(8192), Arc::clone(&script))
                .await,
        );
    }
    let result = stage.dispatch().await.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    let floors = floors.lock().unwrap().clone();
    assert_eq!(
        floors,
        [
            MemoryPlan::BatchedGuidance,
            MemoryPlan::BatchedGuidance,
            MemoryPlan::SequentialGuidance
        ]
    );
}
