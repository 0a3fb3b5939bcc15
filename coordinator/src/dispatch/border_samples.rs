//! Measures how much machines of different numeric kinds differ where their results meet: when all chunks of a job are
//! done, the first frames of a chunk beside a border are rendered again on a machine of the other kind, and the first
//! picture is compared. A job's end waits for this, but no failure of it is one of the job.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::frame::PictureDifference;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::memory::DeviceKind;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord};
use tokio::time::Instant;

use super::border::{Border, KindBorders, MeasuredBorder, Pair, Side};
use crate::placement::{Fit, WorkerCapacity};

/// The most borders between two kinds that are measured.
const MOST_OF_A_PAIR: usize = 3;
/// The finished job waits this long for a machine to begin. One that is at work on another chunk may be free by then.
const BEGUN_WITHIN: Duration = Duration::from_mins(2);
/// Frames of a window, which is the least that is rendered.
const WINDOW: u64 = 16;

/// The measurements of one job.
#[derive(Debug, Default)]
pub(super) struct BorderSamples {
    /// By the index of the chunk whose first frames are rendered again; `None` until all chunks are done.
    samples: Option<BTreeMap<u32, Sample>>,
    /// Results that came before the samples were chosen, from an earlier coordinator.
    early: BTreeMap<u32, DoneRecord>,
    /// Why nothing is measured between two kinds.
    omitted: BTreeMap<Pair, String>,
}

/// The measurement of one border.
#[derive(Debug)]
struct Sample {
    fingerprints: Pair,
    /// The chunk whose first frames are rendered again, with its result.
    chunk: Side,
    /// The machines that may do it.
    fit: Fit,
    since: Instant,
    state: SampleState,
}

#[derive(Debug)]
enum SampleState {
    /// The task is to be published, or is under way.
    Open,
    Comparing,
    Measured(PictureDifference),
    Failed(String),
}

/// A task to be published: to render the first frames of a chunk again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SampleTask {
    pub(super) index: u32,
    pub(super) range: FrameRange,
    pub(super) fit: Fit,
}

impl BorderSamples {
    /// Whether the samples have been chosen.
    pub(super) fn is_chosen(&self) -> bool {
        self.samples.is_some()
    }

    /// Whether nothing is to be waited for.
    pub(super) fn is_settled(&self) -> bool {
        let mut samples = self.samples.iter().flat_map(BTreeMap::values);
        !samples.any(|sample| matches!(sample.state, SampleState::Open | SampleState::Comparing))
    }

    /// Chooses the borders to be measured and returns the tasks for that. `fit_for` returns how the machines of the kind
    /// that rendered one side can render the other, if one is there.
    pub(super) fn choose(
        &mut self,
        borders: &[Border],
        fit_for: impl Fn(&Side, &Side) -> Option<Fit>,
        now: Instant,
    ) -> Vec<SampleTask> {
        let mut by_pair: BTreeMap<&Pair, Vec<&Border>> = BTreeMap::new();
        for border in borders.iter().filter(|border| border.is_visible) {
            by_pair.entry(&border.fingerprints).or_default().push(border);
        }
        let (mut samples, mut tasks) = (BTreeMap::new(), Vec::new());
        for (fingerprints, borders) in by_pair {
            let mut chosen = 0;
            for border in spread(&borders) {
                let (left, right) = (&border.left, &border.right);
                // The right chunk begins at the border; the left one does for it as long as its own first frame has a
                // rendered mouth. A GPU renders it sooner than a CPU.
                let fits = [(right, fit_for(left, right)), (left, fit_for(right, left))];
                let mut fits = fits.into_iter().filter_map(|(chunk, fit)| Some((chunk, fit?)));
                let (first, second) = (fits.next(), fits.next());
                let is_gpu = |(_, fit): &(&Side, Fit)| fit.constraints.kind == DeviceKind::Cuda;
                let found = if first.as_ref().is_some_and(is_gpu) {
                    first
                } else {
                    second.filter(is_gpu).or(first)
                };
                let Some((chunk, fit)) = found.filter(|(chunk, _)| !samples.contains_key(&chunk.index))
                else {
                    continue;
                };
                chosen += 1;
                tasks.push(SampleTask {
                    index: chunk.index,
                    range: FrameRange::new(chunk.first_frame, chunk.first_frame + WINDOW),
                    fit,
                });
                let sample = Sample {
                    fingerprints: fingerprints.clone(),
                    chunk: chunk.clone(),
                    fit,
                    since: now,
                    state: SampleState::Open,
                };
                samples.insert(chunk.index, sample);
            }
            if chosen == 0 {
                let reason = "no machine of the other kind is there to render a frame again".to_owned();
                self.omitted.insert(fingerprints.clone(), reason);
            }
        }
        self.samples = Some(samples);
        tasks
    }

    /// The result of an earlier coordinator for a chunk, if there is one.
    pub(super) fn take_early(&mut self, index: u32) -> Option<DoneRecord> {
        self.early.remove(&index)
    }

    /// Takes a result. Returns the segments whose first pictures are to be compared: the chunk's own and the new one.
    pub(super) fn on_record(
        &mut self,
        index: u32,
        record: Result<DoneRecord, WireError>,
    ) -> Option<(BlobRef, BlobRef)> {
        let Some(samples) = &mut self.samples else {
            if let Ok(record) = record {
                self.early.insert(index, record);
            }
            return None;
        };
        let sample = samples.get_mut(&index)?;
        if !matches!(sample.state, SampleState::Open) {
            return None;
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                sample.state = SampleState::Failed(one_line(&error));
                return None;
            }
        };
        let original = &sample.chunk.record;
        let first = |body: &DoneBody| match body {
            DoneBody::Render { frame_hashes, .. } => frame_hashes.first().copied(),
            DoneBody::Analyze { .. } => None,
        };
        sample.state = if record.numerics_fingerprint == original.numerics_fingerprint {
            SampleState::Failed(
                "the machine that rendered a frame again turned out to be of the same kind".to_owned(),
            )
        } else if first(&record.body) == first(&original.body) {
            // The encoders saw the same picture.
            SampleState::Measured(PictureDifference::between(&[], &[]))
        } else {
            SampleState::Comparing
        };
        matches!(sample.state, SampleState::Comparing).then_some((original.artifact, record.artifact))
    }

    /// Takes the result of a comparison.
    pub(super) fn on_compared(&mut self, index: u32, result: Result<PictureDifference, String>) {
        if let Some(sample) = self.samples.as_mut().and_then(|samples| samples.get_mut(&index)) {
            sample.state = match result {
                Ok(difference) => SampleState::Measured(difference),
                Err(reason) => SampleState::Failed(reason),
            };
        }
    }

    /// Gives up one measurement that is open.
    pub(super) fn fail(&mut self, index: u32, reason: String) {
        let sample = self.samples.as_mut().and_then(|samples| samples.get_mut(&index));
        if let Some(sample) = sample.filter(|sample| matches!(sample.state, SampleState::Open)) {
            sample.state = SampleState::Failed(reason);
        }
    }

    /// Gives up the measurements that no machine can make any more, or that none has begun within [`BEGUN_WITHIN`].
    pub(super) fn check(
        &mut self,
        capacities: &[WorkerCapacity],
        is_begun: impl Fn(u32) -> bool,
        now: Instant,
    ) {
        for (index, sample) in self.samples.iter_mut().flatten() {
            if !matches!(sample.state, SampleState::Open) || is_begun(*index) {
                continue;
            }
            if !capacities.iter().any(|worker| worker.takes(sample.fit.lane())) {
                let reason = "the machines of the other kind have left".to_owned();
                sample.state = SampleState::Failed(reason);
            } else if now - sample.since > BEGUN_WITHIN {
                let reason = format!(
                    "no machine of the other kind has begun it within {} s",
                    BEGUN_WITHIN.as_secs()
                );
                sample.state = SampleState::Failed(reason);
            }
        }
    }

    /// Adds what was measured to the counts of the borders.
    pub(super) fn add_to(&self, counts: &mut [KindBorders]) {
        for count in counts {
            count.not_measured = self.omitted.get(&count.fingerprints).cloned();
            let samples = self.samples.iter().flat_map(BTreeMap::values);
            for sample in samples.filter(|sample| sample.fingerprints == count.fingerprints) {
                match &sample.state {
                    SampleState::Measured(difference) => count.measured.push(MeasuredBorder {
                        frame: sample.chunk.first_frame,
                        difference: *difference,
                    }),
                    SampleState::Failed(reason) => count.not_measured = Some(reason.clone()),
                    SampleState::Open | SampleState::Comparing => {
                        count.not_measured = Some("the job was ended before it was measured".to_owned());
                    }
                }
            }
        }
    }
}

/// The first border, the last one and the one in the middle.
fn spread<'a>(borders: &[&'a Border]) -> Vec<&'a Border> {
    let last = borders.len().saturating_sub(1);
    let mut places: Vec<usize> = (0..MOST_OF_A_PAIR)
        .map(|place| place * last / (MOST_OF_A_PAIR - 1))
        .collect();
    places.dedup();
    places
        .into_iter()
        .filter_map(|place| borders.get(place).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::job::test_support::done_record;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::frame::FrameHash;
    use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind};
    use latentfarm_common::numeric_kind::NumericKind;
    use latentfarm_common::queues::ResourceClass;
    use latentfarm_common::wire::memory::{MemoryConstraints, MemoryPlan, MemoryRequirements, RenderMemory};

    fn record(work: WorkKind, index: u32, fingerprint: &str) -> DoneRecord {
        let job = JobId::from_digest(&Digest::of(b"job"));
        let chunk = ChunkId { job, work, index };
        DoneRecord {
            numerics_fingerprint: fingerprint.to_owned(),
            kind: Some(NumericKind::of(fingerprint)),
            body: DoneBody::Render {
                frame_hashes: vec![FrameHash::of([fingerprint.as_bytes()])],
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
        let on_cpu =
            |of: &Side, _: &Side| Some(fit(of)).filter(|fit| fit.constraints.kind == DeviceKind::Cpu);
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
}
