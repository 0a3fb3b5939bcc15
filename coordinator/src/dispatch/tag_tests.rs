//! Tests that a job which needs tags is dispatched as if the farm had only the workers that have them.

use std::collections::BTreeMap;
use std::sync::Arc;

use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::queues::{Lane, ResourceClass};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryUse};
use latentfarm_common::wire::outcome::{
    DoneRecord, Heartbeat, StageTimings, TaskProgress, TaskStage, WorkerState,
};
use tokio::time::Instant;

use super::backup;
use super::committed_load::{Commitments, CommittedLoad};
use super::job::Job;
use super::need_estimator::NeedEstimator;
use super::placer::Placer;
use super::publish_window::choose;
use super::rebalance::{Rebalancer, Relief, Relieved};
use super::shared_analysis::SharedAnalyses;
use super::tests::{EVERY, farm, heartbeat, job, queue_all, scheduled, workers};
use super::wait_reason::{FarmView, reason};
use super::workers::Workers;
use crate::job::chunk::event::ChunkEvent;
use crate::job::test_support::done_record;
use crate::placement::{ChunkMemory, WorkerCapacity, options};

fn tags(list: &[&str]) -> Tags {
    Tags::new(list.iter().map(|tag| tag.parse().unwrap())).unwrap()
}

fn tagged_job(chunks: u32, needed: &[&str]) -> (Job, tempfile::TempDir) {
    let (mut job, folder) = job(chunks);
    job.settings.needed_tags = tags(needed);
    (job, folder)
}

fn tagged(name: &str, host_mib: u64, list: &[&str]) -> Heartbeat {
    Heartbeat {
        tags: tags(list),
        ..heartbeat(name, host_mib)
    }
}

fn place(jobs: &mut BTreeMap<JobId, Job>, workers: &Workers, now: Instant) {
    let mut placer = Placer::new(EVERY, now);
    placer.place(
        jobs,
        &workers.capacities(&Tags::NONE),
        &NeedEstimator::default(),
        now,
    );
}

/// The names of the queues to which something is published now.
fn queues(jobs: &BTreeMap<JobId, Job>, workers: &Workers, now: Instant) -> Vec<String> {
    let chosen = choose(jobs, workers, now);
    chosen.iter().map(|(queue, _)| queue.to_string()).collect()
}

#[test]
fn the_memory_of_workers_without_the_tags_counts_for_nothing() {
    let (job, _folder) = tagged_job(3, &["eu"]);
    let (mut jobs, mut workers, now) = (farm([job]), workers(), Instant::now());
    workers.record_heartbeat(heartbeat("large", 16_384), now);
    workers.record_heartbeat(tagged("small", 2048, &["eu"]), now);
    place(&mut jobs, &workers, now);
    assert_eq!(scheduled(&jobs), 0);
    let chunk = &jobs.values().next().unwrap().chunks.render[0];
    let shortage = chunk.memory_wait().unwrap().describe();
    assert!(shortage.contains("the largest free is 2.0 GiB"), "{shortage}");

    workers.record_heartbeat(tagged("also", 16_384, &["nvenc", "eu"]), now);
    place(&mut jobs, &workers, now);
    assert_eq!(scheduled(&jobs), 3);
    assert_eq!(queues(&jobs, &workers, now), ["cpu03+eu-p1"]);
}

#[test]
fn nothing_of_a_job_is_published_while_no_worker_has_all_of_its_tags() {
    let (mut job, _folder) = tagged_job(2, &["nvenc", "eu"]);
    for chunk in job.chunks.ids(|record| record.id.work == WorkKind::Analyze) {
        job.apply(chunk, ChunkEvent::Released);
    }
    let (mut jobs, mut workers, now) = (farm([job]), workers(), Instant::now());
    workers.record_heartbeat(tagged("one", 16_384, &["eu"]), now);
    workers.record_heartbeat(tagged("other", 16_384, &["nvenc"]), now);
    place(&mut jobs, &workers, now);
    assert_eq!(queues(&jobs, &workers, now), [""; 0]);
    workers.take_changed();
    // The same worker, started anew with a further tag.
    workers.record_heartbeat(tagged("one", 16_384, &["eu", "nvenc"]), now);
    assert!(workers.take_changed(), "there is something to place");
    place(&mut jobs, &workers, now);
    assert_eq!(queues(&jobs, &workers, now), ["cpu03+eu-p1", "analyze+eu-p1"]);
}

#[test]
fn a_wait_names_the_tags_or_what_is_the_matter_with_the_workers_that_have_them() {
    let (mut job, _folder) = tagged_job(2, &["nvenc", "eu"]);
    let (mut workers, now) = (workers(), Instant::now());
    let up = FarmView {
        url: "nats://farm:4222",
        outage: None,
        has_lease: true,
        refusal: None,
    };
    let waits = |job: &Job, workers: &Workers| {
        let found = reason(&job.chunks, &job.settings.needed_tags, workers, up);
        found.map(|reason| (reason.to_string(), reason.is_stall()))
    };
    let none = ("no live worker has the tags eu, nvenc".to_owned(), true);
    assert_eq!(waits(&job, &workers), Some(none.clone()));
    workers.record_heartbeat(tagged("w1", 16_384, &["eu"]), now);
    assert_eq!(waits(&job, &workers), Some(none));
    let unfit = Heartbeat {
        state: WorkerState::Unfit,
        problem: Some("no driver".to_owned()),
        ..tagged("w2", 16_384, &["eu", "nvenc"])
    };
    workers.record_heartbeat(unfit, now);
    let named = "no worker can run the tasks; w2 is unfit: no driver".to_owned();
    assert_eq!(waits(&job, &workers), Some((named, true)));
    job.settings.needed_tags = tags(&["eu"]);
    assert_eq!(waits(&job, &workers), None);
}

#[test]
fn an_idle_worker_gets_no_task_that_needs_a_tag_which_it_does_not_have() {
    let (job, _folder) = tagged_job(3, &["eu", "nvenc"]);
    let (mut jobs, mut workers, now) = (farm([job]), workers(), Instant::now());
    let holder = |held: Vec<ChunkId>| Heartbeat {
        state: WorkerState::Working,
        held,
        ..tagged("holder", 16_384, &["eu", "nvenc"])
    };
    workers.record_heartbeat(holder(Vec::new()), now);
    let chunks = queue_all(&mut jobs, &workers, now);
    assert_eq!(chunks.len(), 3);
    workers.record_heartbeat(holder(chunks.clone()), now);
    workers.record_heartbeat(heartbeat("bare", 16_384), now);
    // It pulls from the queue.
    workers.record_heartbeat(tagged("half", 16_384, &["eu"]), now);
    let look = |workers: &Workers| {
        let Relieved { reliefs, without } = Rebalancer::default().choose(&jobs, workers, now).unwrap();
        (reliefs, without.len())
    };
    assert_eq!(look(&workers), (Vec::new(), 2));
    workers.record_heartbeat(tagged("able", 16_384, &["eu", "nvenc"]), now);
    let give_back = Relief::GiveBack {
        holder: "holder".parse().unwrap(),
        chunk: chunks[2],
    };
    assert_eq!(look(&workers), (vec![give_back], 2));
}

#[test]
fn an_analysis_waits_for_that_of_another_job_only_if_its_own_workers_can_make_that() {
    let another = |needed: &[&str]| {
        let (mut job, folder) = tagged_job(2, needed);
        let id = JobId::from_digest(&Digest::of(needed.concat().as_bytes()));
        job.spec.id = id;
        (job, folder)
    };
    let waits = |needed: &[&str], other: &[&str], is_running: bool| {
        let ((job, _one), (mut other, _two)) = (another(needed), another(other));
        let record = &mut other.chunks.analyze[0];
        let (range, attempt) = (record.range, record.state().attempt);
        record.apply(ChunkEvent::Released);
        record.apply(ChunkEvent::Enqueued { attempt });
        if is_running {
            let worker = "w1".parse().unwrap();
            record.apply(ChunkEvent::Started { attempt, worker });
        }
        let mut analyses = SharedAnalyses::under_way([&job, &other].into_iter());
        analyses.is_elsewhere(&job, range)
    };
    assert!(waits(&["eu"], &[], false));
    assert!(waits(&["eu", "nvenc"], &["eu"], false));
    assert!(!waits(&[], &["eu"], false), "that may wait for a worker for ever");
    assert!(!waits(&["eu"], &["nvenc"], false));
    assert!(waits(&[], &["eu"], true), "a worker is at it");
}

#[test]
fn a_job_shares_its_workers_with_those_that_may_use_them() {
    let mut workers = workers();
    let now = Instant::now();
    for (name, list) in [("bare", &[][..]), ("eu", &["eu"]), ("both", &["eu", "nvenc"])] {
        workers.record_heartbeat(tagged(name, 16_384, list), now);
    }
    let frames = |gpu_frames| CommittedLoad {
        gpu_frames,
        cpu_chunks: 0,
    };
    let (mut running, _folder) = job(2);
    let attempt = running.chunks.render[0].state().attempt;
    running.chunks.render[0].apply(ChunkEvent::Enqueued { attempt });
    let worker = "bare".parse().unwrap();
    running.chunks.render[0].apply(ChunkEvent::Started { attempt, worker });
    let mut all = workers.capacities(&Tags::NONE);
    let choices = options(&running.settings.needs, &ChunkMemory::default(), &all);
    running.chunks.render[0].published = choices.cpu;
    let mut commitments = Commitments::of_running([&running].into_iter());
    for (needed, load) in [(&[][..], 1), (&["eu"], 10), (&["nvenc"], 100), (&["us"], 1000)] {
        commitments.add_placed(tags(needed), frames(load));
    }
    let shared_by = |needed: &[&str], all: &[WorkerCapacity]| {
        let needed = tags(needed);
        let has = |worker: &WorkerCapacity| worker.tags.cover(&needed);
        let (own, others): (Vec<_>, Vec<_>) = all.iter().cloned().partition(has);
        let load = commitments.shared_by(&own, &others);
        (load.gpu_frames, load.cpu_chunks)
    };
    assert_eq!(shared_by(&[], &all), (111, 1), "nobody has the last tag");
    assert_eq!(
        shared_by(&["eu"], &all),
        (111, 0),
        "the chunk runs on another worker"
    );
    all.retain(|worker| worker.worker.as_str() != "both");
    assert_eq!(shared_by(&["eu"], &all), (11, 0));
    let mut load = CommittedLoad::default();
    load.add(Some(Lane::any(ResourceClass::Gpu(1024))), 48);
    assert_eq!(load.since(CommittedLoad::default()), frames(48));
}

#[test]
fn a_chunk_has_no_backup_on_a_worker_without_the_tags() {
    let (mut job, _folder) = tagged_job(2, &["eu"]);
    let (mut workers, now) = (workers(), Instant::now());
    let slow: WorkerId = "slow".parse().unwrap();
    let (done, running) = (job.chunks.render[0].id, job.chunks.render[1].id);
    let took = |engine_ms| DoneRecord {
        timings: StageTimings {
            engine_ms,
            ..StageTimings::default()
        },
        memory: Some(MemoryUse {
            kind: DeviceKind::Cpu,
            device: "cpu".to_owned(),
            plan: MemoryPlan::default(),
            predicted_mib: 0,
            peak_mib: 0,
            least_free_mib: 0,
            shortages: Vec::new(),
            stages: Vec::new(),
        }),
        ..done_record(done, Attempt::default(), slow.clone())
    };
    let record = Arc::new(took(160_000));
    job.apply(done, ChunkEvent::DoneSeen { record });
    // Others take a thousandth of that for a frame.
    let mut estimator = NeedEstimator::default();
    estimator.observe_done(&job.spec.model, &took(160));
    let attempt = job.chunks.render[1].state().attempt;
    let task = TaskProgress {
        chunk: running,
        attempt,
        frames_done: 0,
        frames_total: 16,
        stage: TaskStage::Starting,
        queue: None,
        plan: None,
    };
    let working = Heartbeat {
        state: WorkerState::Working,
        task: Some(task),
        ..tagged("slow", 16_384, &["eu"])
    };
    workers.record_heartbeat(working, now);
    let mut jobs = farm([job]);
    assert_eq!(queue_all(&mut jobs, &workers, now), [running]);
    let started = ChunkEvent::Started {
        attempt,
        worker: slow,
    };
    jobs.values_mut().next().unwrap().apply(running, started);
    let chosen = |workers: &Workers| {
        let idle = workers.idle_capacities();
        let chosen = backup::choose(&jobs, workers, &idle, &estimator)?;
        Some(chosen.worker.to_string())
    };
    workers.record_heartbeat(heartbeat("bare", 16_384), now);
    assert_eq!(chosen(&workers), None);
    workers.record_heartbeat(tagged("able", 16_384, &["eu"]), now);
    assert_eq!(chosen(&workers).as_deref(), Some("able"));
}
