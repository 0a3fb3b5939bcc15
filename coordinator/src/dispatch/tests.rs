//! Tests the parts of the dispatcher together, without a farm.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind};
use latentfarm_common::queues::{Available, ResourceClass};
use latentfarm_common::tags::Tags;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::CutRecord;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, OutOfMemory, RenderMemory};
use latentfarm_common::wire::outcome::{Failure, Heartbeat, WorkerState};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::benchmark_job::{benchmark_job, benchmark_segments};
use super::job::Job;
use super::need_estimator::NeedEstimator;
use super::placer::Placer;
use super::publish_window::choose;
use super::rebalance::{Rebalancer, Relief, Relieved};
use super::settings::{DispatchSettings, Timeouts};
use super::test_support::observations;
use super::workers::Workers;
use crate::job::chunk::event::ChunkEvent;
use crate::job::chunk::state::Phase;
use crate::job::chunks::Ending;
use crate::job::segments::VideoNews;
use crate::job::test_support::{done_record, segment};
use crate::placement::JobNeeds;

pub(super) const EVERY: Duration = Duration::from_millis(250);

/// A job of `chunks` render chunks, all of them released. Its folder exists as long as the guard.
pub(super) fn job(chunks: u32) -> (Job, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (spec, timeline) = benchmark_job(chunks * 16, chunks * 16);
    let settings = DispatchSettings::new(folder.path().to_owned(), JobNeeds::flat_cpu(3000)).job;
    let (observer, _events) = mpsc::unbounded_channel();
    let mut job = Job::new(spec, timeline, settings, Timeouts::default(), observer).unwrap();
    for chunk in job.chunks.ids(|record| record.id.work == WorkKind::Render) {
        job.apply(chunk, ChunkEvent::Released);
    }
    (job, folder)
}

pub(super) fn farm<const COUNT: usize>(jobs: [Job; COUNT]) -> BTreeMap<JobId, Job> {
    jobs.into_iter().map(|job| (job.spec.id, job)).collect()
}

pub(super) fn workers() -> Workers {
    Workers::new(Duration::from_secs(10), Duration::from_secs(30))
}

pub(super) fn heartbeat(name: &str, host_mib: u64) -> Heartbeat {
    let memory = RenderMemory {
        host_mib: Some(host_mib),
        device_mib: None,
    };
    Heartbeat {
        state: WorkerState::Idle,
        capacity: memory,
        available: Available {
            analyze: true,
            memory,
        },
        ..Heartbeat::starting(name.parse().unwrap(), "cpu".to_owned())
    }
}

pub(super) fn scheduled(jobs: &BTreeMap<JobId, Job>) -> usize {
    let records = jobs.values().flat_map(|job| &job.chunks.render);
    records.filter(|record| record.scheduled.is_some()).count()
}

#[test]
fn a_flood_of_heartbeats_places_a_few_times_a_second_and_an_unchanged_farm_never_again() {
    let (job, _folder) = job(20);
    let (mut jobs, mut workers, estimator) = (farm([job]), workers(), NeedEstimator::default());
    let start = Instant::now();
    let mut placer = Placer::new(EVERY, start);
    let mut beat = |number: u64, host_mib: u64| {
        workers.record_heartbeat(heartbeat("w1", host_mib), start);
        if workers.take_changed() {
            placer.mark_stale();
        }
        let now = start + Duration::from_millis(number);
        usize::from(
            placer
                .place(&mut jobs, &workers.capacities(&Tags::NONE), &estimator, now)
                .is_some(),
        )
    };
    let changing: usize = (0..10_000).map(|number| beat(number, 16_000 + number)).sum();
    assert!(
        (2..=40).contains(&changing),
        "{changing} placements in ten seconds"
    );
    let unchanged: usize = (10_000..20_000).map(|number| beat(number, 30_000)).sum();
    assert!(unchanged <= 1, "{unchanged} placements of an unchanged farm");
    assert_eq!(scheduled(&jobs), 20);
}

#[test]
fn a_worker_that_joins_is_placed_for_with_its_first_heartbeat() {
    let (job, _folder) = job(20);
    let (mut jobs, mut workers, estimator) = (farm([job]), workers(), NeedEstimator::default());
    let start = Instant::now();
    let mut placer = Placer::new(EVERY, start);
    assert!(
        placer
            .place(&mut jobs, &workers.capacities(&Tags::NONE), &estimator, start)
            .is_some()
    );
    assert_eq!(scheduled(&jobs), 0, "there is no capacity to compare with");
    assert_eq!(placer.due_at(), None);

    // The worker joins just after the last placement, which makes for the longest wait.
    workers.record_heartbeat(heartbeat("w1", 16_384), start);
    assert!(workers.take_changed());
    placer.mark_stale();
    assert_eq!(placer.due_at(), Some(start + EVERY));
    let capacities = workers.capacities(&Tags::NONE);
    let early = start + Duration::from_millis(249);
    assert!(placer.place(&mut jobs, &capacities, &estimator, early).is_none());
    assert!(
        placer
            .place(&mut jobs, &capacities, &estimator, start + EVERY)
            .is_some()
    );
    assert_eq!(scheduled(&jobs), 20);
}

#[test]
fn two_jobs_take_turns_in_the_window_of_a_lane() {
    let ((first, _a), (second, _b)) = (job(40), job(30));
    let ids = [first.spec.id, second.spec.id];
    let (mut jobs, mut workers) = (farm([first, second]), workers());
    workers.record_heartbeat(heartbeat("w1", 16_384), Instant::now());
    let now = Instant::now();
    let capacities = workers.capacities(&Tags::NONE);
    let mut placer = Placer::new(EVERY, now);
    placer.place(&mut jobs, &capacities, &NeedEstimator::default(), now);
    let queues = choose(&jobs, &workers, now);
    let [(queue, chosen)] = queues.as_slice() else {
        panic!("{queues:?}")
    };
    assert_eq!(queue.lane.class, ResourceClass::Cpu(3072));
    assert_eq!(
        chosen.len(),
        18,
        "twice the workers and 16, for both jobs together"
    );
    let mut turns: Vec<JobId> = ids.to_vec();
    turns.sort_unstable();
    let expected = (0..9_u32).flat_map(|index| {
        turns.iter().map(move |job| ChunkId {
            job: *job,
            work: WorkKind::Render,
            index,
        })
    });
    assert_eq!(*chosen, expected.collect::<Vec<_>>());
}

fn out_of_memory() -> Failure {
    Failure::OutOfMemory(OutOfMemory {
        kind: DeviceKind::Cpu,
        device: "cpu".to_owned(),
        stage: Some(MemoryStage::Denoise),
        plan: MemoryPlan::default(),
        needed_at_least_mib: Some(5000),
        free_before_mib: 4000,
        suspected: false,
    })
}

#[test]
fn a_failure_whose_publish_was_never_acknowledged_counts() {
    let (mut job, _folder) = job(1);
    let record = &job.chunks.render[0];
    let (chunk, attempt) = (record.id, record.state().attempt);
    let oom = job.on_failed(chunk, attempt, &"w1".parse().unwrap(), out_of_memory());
    assert_eq!(oom.unwrap().needed_at_least_mib, Some(5000));
    assert!(
        job.log.ooms[0].consequence.contains("it requires 4.9 GiB"),
        "{:?}",
        job.log.ooms
    );
    assert_eq!(job.chunks.render[0].state().tries.out_of_memory, 1);
}

#[test]
fn a_failure_that_no_longer_counts_is_listed_once_and_changes_nothing() {
    let (mut job, _folder) = job(1);
    let chunk = job.chunks.render[0].id;
    let attempt = Attempt::default();
    job.apply(chunk, ChunkEvent::Enqueued { attempt });
    let record = done_record(chunk, attempt, "w2".parse().unwrap());
    job.count(&record.into(), Vec::new(), 1).unwrap();
    for _ in 0..2 {
        let oom = job.on_failed(chunk, attempt, &"w1".parse().unwrap(), out_of_memory());
        assert_eq!(oom, None, "nothing is learned from it");
    }
    let [noted] = job.log.ooms.as_slice() else {
        panic!("{:?}", job.log.ooms)
    };
    assert_eq!(
        (noted.worker.as_str(), noted.consequence.as_str()),
        ("w1", "another attempt counts already")
    );
    assert!(matches!(job.chunks.render[0].state().phase, Phase::Done { .. }));
    assert!(job.log.retries.is_empty());
}

#[test]
fn a_drained_job_ends_once_its_last_record_is_verified() {
    let (mut job, _folder) = job(2);
    assert_eq!(job.ending(false), None);
    job.chunks.render[1].being_verified = true;
    assert_eq!(job.ending(true), None);
    job.chunks.render[1].being_verified = false;
    let (frames_done, frames) = (0, 32);
    assert_eq!(
        job.ending(true),
        Some(Ending::Interrupted { frames_done, frames })
    );
}

#[test]
fn a_drained_job_is_not_complete_before_its_video_has_ended() {
    let (mut job, _folder) = job(2);
    for chunk in job.chunks.ids(|_| true) {
        let record = done_record(chunk, Attempt::default(), "w1".parse().unwrap());
        job.apply(
            chunk,
            ChunkEvent::DoneSeen {
                record: record.into(),
            },
        );
    }
    let mut ended = Vec::new();
    for record in benchmark_segments(32)
        .into_iter()
        .map(CutRecord::Segment)
        .chain([CutRecord::End])
    {
        ended.push(job.ending(false));
        job.segments.on_news(&VideoNews::Recorded(record));
    }
    assert_eq!(ended, [None, None]);
    assert_eq!(job.ending(false), Some(Ending::Complete));
}

#[test]
fn frames_without_speech_are_rendered_when_they_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spec, mut timeline) = benchmark_job(64, 64);
    // A tail of 48 frames, which is not analysed.
    for output in &mut timeline.outputs[16..] {
        output.synced = false;
    }
    spec.face_frames = 16;
    let settings = DispatchSettings::new(folder.path().to_owned(), JobNeeds::flat_cpu(3000)).job;
    let (observer, _events) = mpsc::unbounded_channel();
    let mut job = Job::new(spec, timeline, settings, Timeouts::default(), observer).unwrap();
    let released = |job: &Job| {
        job.chunks
            .ids(|record| record.state().phase == Phase::Backlog)
            .len()
    };
    job.release();
    assert_eq!(released(&job), 0, "nothing has been cut");
    job.segments.on_news(&VideoNews::Recorded(segment(0, 32)));
    job.release();
    assert_eq!(released(&job), 1, "the analysis");
    let range = FrameRange::new(0, 16);
    job.gate.track.add(range, observations(16, 20.0)).unwrap();
    job.release();
    assert_eq!(
        released(&job),
        3,
        "the chunk with speech, and the first of the tail"
    );
    job.segments.on_news(&VideoNews::Recorded(segment(32, 32)));
    job.release();
    assert_eq!(released(&job), 5, "all");
}

/// Places the chunks of a job, and marks them as queued.
pub(super) fn queue_all(jobs: &mut BTreeMap<JobId, Job>, workers: &Workers, now: Instant) -> Vec<ChunkId> {
    let mut placer = Placer::new(EVERY, now);
    placer.place(
        jobs,
        &workers.capacities(&Tags::NONE),
        &NeedEstimator::default(),
        now,
    );
    let mut chunks = Vec::new();
    for job in jobs.values_mut() {
        for chunk in job.chunks.ids(|record| record.scheduled.is_some()) {
            let record = job.chunks.get_mut(chunk).unwrap();
            record.published = record.scheduled.map(|scheduled| scheduled.fit);
            let attempt = record.state().attempt;
            job.apply(chunk, ChunkEvent::Enqueued { attempt });
            chunks.push(chunk);
        }
    }
    chunks
}

#[test]
fn an_idle_worker_gets_what_nobody_holds_and_then_what_another_one_would_begin_last() {
    let (job, _folder) = job(3);
    let (mut jobs, mut workers, now) = (farm([job]), workers(), Instant::now());
    let holder = |held: &[ChunkId]| Heartbeat {
        state: WorkerState::Working,
        held: held.to_vec(),
        ..heartbeat("w1", 16_384)
    };
    workers.record_heartbeat(holder(&[]), now);
    let chunks = queue_all(&mut jobs, &workers, now);
    assert_eq!(chunks.len(), 3);
    let mut rebalancer = Rebalancer::default();
    let mut at = |workers: &Workers, ms: u64| {
        let looked = rebalancer.choose(&jobs, workers, now + Duration::from_millis(ms));
        looked.map(|Relieved { reliefs, without }| (reliefs, without.len()))
    };
    workers.record_heartbeat(holder(&chunks[..2]), now);
    assert_eq!(at(&workers, 0), None, "no worker is idle");
    workers.record_heartbeat(heartbeat("w2", 16_384), now);
    let Some((reliefs, 0)) = at(&workers, 0) else {
        panic!("it has something to do")
    };
    assert!(matches!(reliefs.as_slice(), [Relief::Announce(_)]), "{reliefs:?}");
    assert_eq!(at(&workers, 100), None, "a moment ago");
    workers.record_heartbeat(holder(&chunks), now);
    let give_back = |chunk: ChunkId| {
        let holder = "w1".parse().unwrap();
        Some((vec![Relief::GiveBack { holder, chunk }], 0))
    };
    assert_eq!(at(&workers, 300), give_back(chunks[2]));
    assert_eq!(at(&workers, 600), Some((Vec::new(), 0)), "it was asked for it");
    assert_eq!(at(&workers, 4000), give_back(chunks[2]), "the message was lost");
    workers.record_heartbeat(holder(&chunks[..0]), now);
    workers.record_heartbeat(heartbeat("w2", 1), now);
    assert_eq!(
        at(&workers, 8000),
        Some((Vec::new(), 1)),
        "it has too little memory"
    );
}
