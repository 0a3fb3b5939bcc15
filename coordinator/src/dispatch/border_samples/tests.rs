use super::*;
use latentfarm_common::wire::outcome::DoneBody;
use std::sync::Arc;

use crate::job::test_support::done_record;
use latentfarm_common::digest::Digest;
use latentfarm_common::frame::FrameHash;
use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind};
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::{MemoryConstraints, MemoryPlan, MemoryRequirements, RenderMemory};

fn record(work: WorkKind, index: u32, fingerprint: &str) -> DoneRecord {
    let job = JobId::from_digest(&Digest::of(b"job"));
    let chunk = ChunkId { job, work, index };
    DoneRecord {
        numerics_fingerprint: fingerprint.to_owned(),
        kind: Some(NumericKind::of(fingerprint)),
        body: DoneBody::Render {
            frame_hashes: vec![FrameHash::of([fingerprint.as_bytes()])],
            lips: vec![None],
            synced: 16,
            passed: 0,
        },
        ..done_record(chunk, Attempt::default(), "w1".parse().unwrap())
    }
}

fn side(index: u32, fingerprint: &str) -> Side {
    Side {
        index,
        first_frame: u64::from(index) * 48,
        record: Arc::new(record(WorkKind::Render, index, fingerprint)),
    }
}

/// Borders before the chunks with these indices: the left side was rendered by a CPU, the right one by a GPU.
fn borders(rights: &[u32]) -> Vec<Border> {
    let border = |right: &u32| Border {
        fingerprints: ["cpu", "gpu"].map(str::to_owned),
        left: side(right - 1, "cpu"),
        right: side(*right, "gpu"),
        is_visible: true,
    };
    rights.iter().map(border).collect()
}

/// How the machines that rendered a side render another one.
fn fit(of: &Side) -> Fit {
    let (class, kind) = match of.record.numerics_fingerprint.as_str() {
        "cpu" => (ResourceClass::Cpu(256), DeviceKind::Cpu),
        _ => (ResourceClass::Gpu(512), DeviceKind::Cuda),
    };
    Fit {
        class,
        kind: of.record.kind,
        constraints: MemoryConstraints {
            kind,
            floor: MemoryPlan::default(),
            needs: MemoryRequirements::default(),
        },
        need_mib: 100,
    }
}

fn gpu() -> WorkerCapacity {
    let memory = RenderMemory {
        host_mib: None,
        device_mib: Some(512),
    };
    WorkerCapacity {
        tags: Tags::NONE,
        worker: "w2".parse().unwrap(),
        kind: Some(NumericKind::of("gpu")),
        capacity: memory,
        alone: memory,
    }
}

fn chosen(rights: &[u32]) -> (BorderSamples, Vec<SampleTask>) {
    let mut samples = BorderSamples::default();
    let tasks = samples.choose(&borders(rights), |of, _| Some(fit(of)), Instant::now());
    (samples, tasks)
}

fn counts(samples: &BorderSamples) -> KindBorders {
    let mut counts = crate::dispatch::border::count(&borders(&[5]));
    samples.add_to(&mut counts);
    counts.remove(0)
}

#[test]
fn the_first_the_middle_and_the_last_border_are_measured_on_the_gpu() {
    let indices = |rights: &[u32]| -> Vec<u32> {
        let (_, tasks) = chosen(rights);
        assert!(
            tasks
                .iter()
                .all(|task| task.fit.constraints.kind == DeviceKind::Cuda)
        );
        tasks.iter().map(|task| task.index).collect()
    };
    // The GPU renders the left chunks again.
    assert_eq!(indices(&[1, 5, 7, 10, 20]), [0, 6, 19]);
    assert_eq!(indices(&[5, 9]), [4, 8]);
    assert_eq!(indices(&[5]), [4]);
    assert!(indices(&[]).is_empty());
}

#[test]
fn without_a_gpu_the_chunk_that_begins_at_the_border_is_rendered_again() {
    let mut samples = BorderSamples::default();
    let on_cpu = |of: &Side, _: &Side| Some(fit(of)).filter(|fit| fit.constraints.kind == DeviceKind::Cpu);
    let tasks = samples.choose(&borders(&[5]), on_cpu, Instant::now());
    assert_eq!((tasks[0].index, tasks[0].range), (5, FrameRange::new(240, 256)));
    let mut nobody = BorderSamples::default();
    assert_eq!(nobody.choose(&borders(&[5]), |_, _| None, Instant::now()), []);
    assert!(nobody.is_settled() && counts(&nobody).not_measured.is_some());
}

#[test]
fn a_result_is_compared_unless_the_pictures_are_known_to_be_equal() {
    let again = |fingerprint: &str| record(WorkKind::Border, 4, fingerprint);
    let (mut samples, _) = chosen(&[5]);
    assert!(!samples.is_settled());
    assert!(samples.on_record(4, Ok(again("gpu"))).is_some());
    assert!(!samples.is_settled(), "it is being compared");
    let difference = PictureDifference::between(&[1], &[3]);
    samples.on_compared(4, Ok(difference));
    assert!(samples.is_settled());
    assert_eq!(counts(&samples).measured[0].difference, difference);
    assert_eq!(counts(&samples).measured[0].frame, 192);

    let (mut equal, _) = chosen(&[5]);
    let same_bits = DoneRecord {
        body: again("cpu").body,
        ..again("gpu")
    };
    assert_eq!(equal.on_record(4, Ok(same_bits)), None);
    assert_eq!(counts(&equal).measured[0].difference.psnr_db(), None);

    let (mut wrong, _) = chosen(&[5]);
    assert_eq!(wrong.on_record(4, Ok(again("cpu"))), None);
    assert!(counts(&wrong).not_measured.unwrap().contains("of the same kind"));
}

#[test]
fn a_result_of_an_earlier_coordinator_is_kept_until_it_is_wanted() {
    let mut samples = BorderSamples::default();
    let early = record(WorkKind::Border, 4, "gpu");
    assert_eq!(samples.on_record(4, Ok(early.clone())), None);
    assert!(samples.is_settled() && !samples.is_chosen());
    samples.choose(&borders(&[5]), |of, _| Some(fit(of)), Instant::now());
    assert_eq!(samples.take_early(4), Some(early.clone()));
    assert!(samples.on_record(4, Ok(early)).is_some());
}

#[test]
fn a_measurement_that_nobody_makes_is_given_up_with_its_reason() {
    let now = Instant::now();
    let late = now + BEGUN_WITHIN * 2;
    let (mut begun, _) = chosen(&[5]);
    begun.check(&[gpu()], |_| true, late);
    assert!(!begun.is_settled(), "a machine is at work on it");
    begun.check(&[gpu()], |_| false, now);
    assert!(!begun.is_settled(), "it has just been published");
    begun.check(&[gpu()], |_| false, late);
    assert!(
        counts(&begun)
            .not_measured
            .unwrap()
            .contains("has begun it within")
    );
    let (mut alone, _) = chosen(&[5]);
    alone.check(&[], |_| false, now);
    assert!(counts(&alone).not_measured.unwrap().contains("have left"));
}
