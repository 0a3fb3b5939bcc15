//! Measures how much machines of different numeric kinds differ where their results meet: when all chunks of a job are
//! done, the first frames of a chunk beside a border are rendered again on a machine of the other kind, and the first
//! picture is compared. A job's end waits for this, but no failure of it is one of the job.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::frame::PictureDifference;
use latentfarm_common::time::{FrameRange, WINDOW_FRAMES};
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::memory::DeviceKind;
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::time::Instant;

use super::border::{Border, KindBorders, MeasuredBorder, Pair, Side};
use crate::job::frame_hashes::frame_hashes;
use crate::placement::{Fit, WorkerCapacity};

/// The most borders between two kinds that are measured.
const MOST_OF_A_PAIR: usize = 3;
/// The finished job waits this long for a machine to begin. One that is at work on another chunk may be free by then.
const BEGUN_WITHIN: Duration = Duration::from_mins(2);

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
                    range: FrameRange::new(chunk.first_frame, chunk.first_frame + WINDOW_FRAMES),
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
        sample.state = if record.numerics_fingerprint == original.numerics_fingerprint {
            SampleState::Failed(
                "the machine that rendered a frame again turned out to be of the same kind".to_owned(),
            )
        } else if frame_hashes(&record).first() == frame_hashes(original).first() {
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
mod tests;
