use super::*;
use crate::job::test_support::done_record;
use crate::placement::{ChunkMemory, CpuFallback, JobNeeds, options};
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, JobId};
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::{MemoryPlan, MemoryRequirements, RenderMemory};
use latentfarm_common::wire::outcome::DoneBody;

const CHUNK: u32 = 7;

fn chunk() -> ChunkId {
    ChunkId {
        job: JobId::from_digest(&Digest::of(b"job")),
        work: WorkKind::Render,
        index: CHUNK,
    }
}

fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

/// A record whose frames look like `picture`.
fn record(of: ChunkId, name: &str, picture: &[u8]) -> DoneRecord {
    let mut record = done_record(of, Attempt::default(), worker(name));
    record.body = DoneBody::Render {
        frame_hashes: vec![FrameHash::of([picture]); 2],
        lips: vec![None; 2],
        synced: 2,
        passed: 0,
    };
    record
}

/// A result of rendering a chunk again.
fn logged(record: DoneRecord) -> LoggedResult {
    LoggedResult {
        record: Arc::new(record),
        sequence: 9,
    }
}

fn capacity(name: &str) -> WorkerCapacity {
    let memory = RenderMemory {
        host_mib: Some(8000),
        device_mib: None,
    };
    WorkerCapacity {
        tags: Tags::NONE,
        worker: worker(name),
        kind: Some(NumericKind::of("kind")),
        capacity: memory,
        alone: memory,
    }
}

fn fit() -> Fit {
    let needs = JobNeeds {
        cpu: Some(MemoryRequirements {
            mib: [1000; MemoryPlan::COUNT],
        }),
        cuda: None,
        media_mib: 100,
    };
    let choices = options(&needs, &ChunkMemory::default(), &[capacity("a")]);
    assert!(choices.any(CpuFallback::Always));
    choices.cpu.unwrap()
}

/// Checks of which one is under way, of a result of worker `a`.
fn begun(picture: &[u8]) -> SpotChecks {
    let mut checks = SpotChecks::default();
    let held = LoggedResult {
        record: Arc::new(record(chunk(), "a", picture)),
        sequence: 5,
    };
    checks.begin(held, FrameRange::new(112, 128), fit(), Instant::now());
    assert!(checks.knows(CHUNK) && !checks.knows(CHUNK + 1));
    checks
}

/// Has another worker render the chunk again.
fn arrive(checks: &mut SpotChecks, name: &str, picture: &[u8]) -> Step {
    let task = checks.next(CHUNK).unwrap().task;
    let record = record(task, name, picture);
    checks.on_arrived(task.index, logged(record))
}

fn settled(step: Step) -> Conclusion {
    match step {
        Step::Settled(conclusion) => conclusion,
        other => panic!("the check goes on: {other:?}"),
    }
}

#[tokio::test]
async fn a_worker_that_comes_to_the_same_confirms_a_result() {
    let mut checks = begun(b"x");
    let conclusion = settled(arrive(&mut checks, "b", b"x"));
    assert_eq!((conclusion.held.sequence, conclusion.odd), (5, None));
    assert_eq!(checks.report().agreed, 1);
    assert_eq!(checks.report().disagreements, []);
    assert!(checks.knows(CHUNK), "no chunk is checked twice");
    assert_eq!(checks.next(CHUNK), None);
}

#[tokio::test]
async fn of_two_that_differ_the_one_that_a_third_contradicts_is_odd() {
    for (third, odd) in [(b"x", Some("b")), (b"y", Some("a")), (b"z", None)] {
        let mut checks = begun(b"x");
        assert!(matches!(arrive(&mut checks, "b", b"y"), Step::Differs));
        let next = checks.next(CHUNK).unwrap();
        assert_eq!(next.excluded, [worker("a"), worker("b")]);
        assert_eq!([next.task.index / 2, next.task.index % 2], [CHUNK, 1]);
        let conclusion = settled(arrive(&mut checks, "c", third));
        let found = conclusion.odd.as_ref().map(|odd| odd.worker.as_str());
        assert_eq!(found, odd);
        let disagreement = Disagreement {
            frames: FrameRange::new(112, 128),
            workers: ["a", "b", "c"].map(worker).to_vec(),
            odd: odd.map(worker),
        };
        assert_eq!(checks.report().disagreements, [disagreement]);
        assert_eq!(checks.report().agreed, 0);
        // Where the first result was wrong, the frames are known from then on.
        let same = record(chunk(), "a", b"x");
        assert_eq!(checks.contradiction(&same).is_some(), odd == Some("a"));
        assert_eq!(checks.contradiction(&record(chunk(), "d", b"y")), None);
        let mut of_another_kind = same;
        of_another_kind.numerics_fingerprint = "another".to_owned();
        assert_eq!(checks.contradiction(&of_another_kind), None);
    }
}

#[tokio::test]
async fn the_reason_names_the_two_workers_that_agree() {
    let mut checks = begun(b"x");
    arrive(&mut checks, "b", b"y");
    let odd = settled(arrive(&mut checks, "c", b"x")).odd.unwrap();
    assert!(
        odd.reason.contains("112..128") && odd.reason.contains("a and c both"),
        "{}",
        odd.reason
    );
}

#[tokio::test]
async fn a_worker_confirms_neither_itself_nor_a_machine_that_rounds_differently() {
    let mut checks = begun(b"x");
    assert!(matches!(arrive(&mut checks, "a", b"x"), Step::NotIndependent));
    assert!(checks.next(CHUNK).is_some(), "it waits for another worker");
    let task = checks.next(CHUNK).unwrap().task;
    let mut record = record(task, "b", b"y");
    record.numerics_fingerprint = "another".to_owned();
    let conclusion = settled(checks.on_arrived(task.index, logged(record)));
    assert_eq!(conclusion.odd, None);
    assert_eq!((checks.report().agreed, checks.report().not_compared), (0, 1));
    assert_eq!(checks.report().disagreements, []);
}

#[tokio::test]
async fn a_check_that_nobody_makes_is_given_up_and_its_result_counts() {
    let now = Instant::now();
    let mut checks = begun(b"x");
    let both = [capacity("a"), capacity("b")];
    let minutes = |minutes| now + Duration::from_mins(minutes);
    assert_eq!(checks.overdue(CHUNK, &both, minutes(1)), None);
    assert_eq!(checks.overdue(CHUNK, &both, minutes(3)), Some(Overdue::Publish));
    checks.on_published(CHUNK, minutes(3));
    assert_eq!(checks.overdue(CHUNK, &both, minutes(4)), None);
    let overdue = checks.overdue(CHUNK, &both, minutes(11));
    assert!(matches!(overdue, Some(Overdue::GiveUp(_))), "{overdue:?}");
    // The worker whose result it is cannot make it.
    let overdue = checks.overdue(CHUNK, &both[..1], minutes(1));
    assert!(matches!(overdue, Some(Overdue::GiveUp(_))), "{overdue:?}");
    let conclusion = checks.give_up(CHUNK, "nobody came").unwrap();
    assert_eq!((conclusion.held.sequence, conclusion.odd), (5, None));
    assert_eq!(checks.report().not_compared, 1);
    assert!(checks.give_up(CHUNK, "nobody came").is_none(), "it counts once");
}

#[tokio::test]
async fn two_that_differ_are_both_reported_if_no_third_can_decide() {
    let mut checks = begun(b"x");
    arrive(&mut checks, "b", b"y");
    let conclusion = checks.give_up(CHUNK, "nobody came").unwrap();
    assert_eq!(conclusion.odd, None);
    let disagreement = Disagreement {
        frames: FrameRange::new(112, 128),
        workers: ["a", "b"].map(worker).to_vec(),
        odd: None,
    };
    assert_eq!(checks.report().disagreements, [disagreement]);
    assert_eq!(checks.report().not_compared, 0);
}

#[tokio::test]
async fn a_result_of_an_earlier_coordinator_is_used() {
    let mut checks = SpotChecks::default();
    let [task, _] = tasks_of(chunk());
    let early = logged(record(task, "b", b"x"));
    assert!(matches!(checks.on_arrived(task.index, early), Step::Ignored));
    assert!(checks.take_early(tasks_of(chunk())[1]).is_none());
    assert_eq!(checks.take_early(task).unwrap().sequence, 9);
}
