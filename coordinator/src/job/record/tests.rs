use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::job::test_support::done_record;
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::JobId;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryRequirements};
use latentfarm_common::wire::outcome::Failure;

const NEEDS: MemoryRequirements = MemoryRequirements {
    mib: [900, 800, 700, 600, 500, 400],
};

fn job_needs() -> JobNeeds {
    JobNeeds {
        cpu: None,
        cuda: Some(NEEDS),
        media_mib: 0,
    }
}

fn record(work: WorkKind) -> ChunkRecord {
    let job = JobId::from_digest(&Digest::of(b"job"));
    let id = ChunkId { job, work, index: 0 };
    ChunkRecord::new(id, FrameRange::new(0, 16))
}

fn scheduled(class: ResourceClass) -> Scheduled {
    let constraints = MemoryConstraints {
        kind: DeviceKind::Cuda,
        floor: MemoryPlan::default(),
        needs: NEEDS,
    };
    let fit = Fit {
        class,
        kind: None,
        constraints,
        need_mib: 400,
    };
    Scheduled {
        fit,
        why: "a test asks for it",
    }
}

fn nobody(now: Instant) -> Unschedulable {
    Unschedulable {
        since: now,
        shortages: vec![],
    }
}

fn with(change: impl FnOnce(&mut ChunkRecord)) -> ChunkRecord {
    let mut backlog = record(WorkKind::Render);
    backlog.apply(ChunkEvent::Released);
    change(&mut backlog);
    backlog
}

#[test]
fn a_chunk_of_the_backlog_is_published_when_nothing_holds_it_back() {
    let now = Instant::now();
    let (soon, past) = (now + Duration::from_secs(1), now - Duration::from_secs(1));
    assert!(!record(WorkKind::Render).may_be_published(now), "it waits");
    assert!(with(|_| ()).may_be_published(now));
    assert!(with(|chunk| chunk.not_before = Some(now)).may_be_published(now));
    assert!(with(|chunk| chunk.not_before = Some(past)).may_be_published(now));
    assert!(!with(|chunk| chunk.not_before = Some(soon)).may_be_published(now));
    assert!(!with(|chunk| chunk.being_verified = true).may_be_published(now));
    assert!(!with(|chunk| chunk.pending_retraction = Some(7)).may_be_published(now));
}

#[test]
fn a_placement_is_needed_by_render_chunks_that_have_none_and_could_go() {
    let now = Instant::now();
    assert!(with(|_| ()).needs_placement(now));
    let queue = Some(scheduled(ResourceClass::Gpu(4096)));
    assert!(!with(|chunk| chunk.scheduled = queue).needs_placement(now));
    assert!(!with(|chunk| chunk.unschedulable = Some(nobody(now))).needs_placement(now));
    assert!(!with(|chunk| chunk.being_verified = true).needs_placement(now));
    let mut analysis = record(WorkKind::Analyze);
    analysis.apply(ChunkEvent::Released);
    assert!(!analysis.needs_placement(now), "any worker analyses");
    assert_eq!(
        analysis.lane_to_publish(now),
        Some(Lane::any(ResourceClass::Analyze))
    );
    assert_eq!(analysis.lane_under_way(), None);
}

#[test]
fn the_lane_under_way_is_that_of_the_queue_it_was_published_to() {
    let now = Instant::now();
    let (first, second) = (ResourceClass::Gpu(4096), ResourceClass::Gpu(8192));
    let attempt = Attempt::default();
    let mut chunk = with(|chunk| {
        chunk.scheduled = Some(scheduled(first));
        chunk.published = Some(scheduled(second).fit);
    });
    assert_eq!(chunk.lane_to_publish(now), Some(Lane::any(first)));
    assert_eq!(chunk.lane_under_way(), None);
    chunk.apply(ChunkEvent::Enqueued { attempt });
    assert_eq!(chunk.lane_to_publish(now), None);
    assert_eq!(chunk.lane_under_way(), Some(Lane::any(second)));
}

#[test]
fn the_second_lost_worker_makes_memory_a_suspect() {
    let mut chunk = with(|chunk| chunk.published = Some(scheduled(ResourceClass::Gpu(4096)).fit));
    assert_eq!(chunk.record_loss(&job_needs()), None);
    assert_eq!(chunk.memory.floor(DeviceKind::Cuda), MemoryPlan::default());
    let note = chunk.record_loss(&job_needs()).unwrap();
    assert!(note.contains("2 workers were lost"), "{note}");
    assert_eq!(
        chunk.memory.floor(DeviceKind::Cuda),
        MemoryPlan::SequentialGuidance
    );
    assert_eq!(
        chunk.record_loss(&job_needs()),
        None,
        "the third may be anything again"
    );
}

#[test]
fn the_shortages_are_described_and_the_largest_counts() {
    let now = Instant::now();
    let mut wait = nobody(now);
    assert_eq!(wait.need_mib(), None);
    assert!(wait.describe().contains("is not known"), "{}", wait.describe());
    let shortage = |kind, need_mib| Shortage {
        kind,
        need_mib,
        queue_mib: None,
        largest: None,
        crowded: None,
    };
    wait.shortages = vec![shortage(DeviceKind::Cuda, 900), shortage(DeviceKind::Cpu, 700)];
    assert_eq!(wait.need_mib(), Some(900));
    assert_eq!(
        wait.describe(),
        "needs 900 MiB, there is no GPU; needs 700 MiB on the CPU, no worker renders on the CPU"
    );
}

#[test]
fn a_new_state_forgets_what_no_longer_holds() {
    let now = Instant::now();
    let attempt = Attempt::default();
    let full = |chunk: &mut ChunkRecord| {
        chunk.not_before = Some(now);
        chunk.inherited = Some(attempt);
        chunk.unreported_since = Some(now);
        chunk.unschedulable = Some(nobody(now));
        chunk.scheduled = Some(scheduled(ResourceClass::Gpu(4096)));
        chunk.input = Some(done_record(chunk.id, attempt, "w".parse().unwrap()).artifact);
    };
    let mut chunk = with(full);
    chunk.apply(ChunkEvent::Enqueued { attempt });
    assert!(chunk.not_before.is_none() && chunk.inherited.is_none() && chunk.unschedulable.is_none());
    assert!(chunk.unreported_since.is_none() && chunk.scheduled.is_none());
    assert!(chunk.input.is_some() && !chunk.maybe_queued);

    let failure = Failure::Transient {
        message: "a broken pipe".to_owned(),
    };
    let worker = "w".parse().unwrap();
    chunk.apply(ChunkEvent::Failed {
        attempt,
        worker,
        failure,
    });
    assert!(
        chunk.maybe_queued,
        "the task of a failed attempt may lie in the queue still"
    );
    full(&mut chunk);
    let record = Arc::new(done_record(chunk.id, attempt, "w".parse().unwrap()));
    chunk.apply(ChunkEvent::DoneSeen { record });
    assert!(chunk.input.is_none() && chunk.unschedulable.is_none());

    let mut reassigned = with(|_| ());
    reassigned.apply(ChunkEvent::Enqueued { attempt });
    reassigned.apply(ChunkEvent::Reassigned { attempt });
    assert!(!reassigned.maybe_queued, "its task was taken out of the queue");
    let mut given_up = with(full);
    let reason = "nobody can run it".to_owned();
    given_up.apply(ChunkEvent::Blocked { reason });
    assert!(given_up.maybe_queued && given_up.unschedulable.is_none());
}
