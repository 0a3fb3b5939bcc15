//! What a job took of the devices that it ran on, for its report.

use std::collections::BTreeMap;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, MemoryUse, StagePeak, WARN_GIB};

/// A peak so far from its prediction is worth a word.
const FAR_OFF: f64 = 0.15;
/// Less than this is what an allocator keeps or does not keep of what was freed, by how fast the machine is.
const OF_NOTE_MIB: u64 = 128;

/// Memory over all chunks of a job that are done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Highest use by stage, in order of the stages.
    pub stages: BTreeMap<DeviceKind, Vec<StagePeak>>,
    pub plans: BTreeMap<(DeviceKind, MemoryPlan), PlanUse>,
    /// Where chunks were rendered.
    pub places: BTreeMap<(WorkerId, String), Place>,
    pub warnings: Vec<String>,
}

/// One plan on one kind of device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanUse {
    pub chunks: u64,
    /// The highest prediction: they are corrected while a job runs.
    pub predicted_mib: u64,
    pub least_mib: u64,
    pub most_mib: u64,
}

/// One device of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub chunks: u64,
    pub frames: u64,
    pub peak_mib: u64,
    /// Smallest free memory seen.
    pub least_free_mib: u64,
}

impl MemoryUsage {
    /// Adds a finished chunk.
    pub fn add(&mut self, worker: &WorkerId, frames: u64, used: &MemoryUse) {
        let peaks = self.stages.entry(used.kind).or_default();
        for stage in &used.stages {
            raise(peaks, *stage);
        }
        let taken = self.plans.entry((used.kind, used.plan)).or_default();
        taken.least_mib = match taken.chunks {
            0 => used.peak_mib,
            _ => taken.least_mib.min(used.peak_mib),
        };
        taken.chunks += 1;
        taken.predicted_mib = taken.predicted_mib.max(used.predicted_mib);
        taken.most_mib = taken.most_mib.max(used.peak_mib);
        let place = self
            .places
            .entry((worker.clone(), used.device.clone()))
            .or_default();
        place.least_free_mib = match place.chunks {
            0 => used.least_free_mib,
            _ => place.least_free_mib.min(used.least_free_mib),
        };
        place.chunks += 1;
        place.frames += frames;
        place.peak_mib = place.peak_mib.max(used.peak_mib);
    }

    /// Says what is out of the ordinary, once all chunks are added.
    pub fn judge(&mut self) {
        let mut warnings = Vec::new();
        for ((worker, device), place) in &self.places {
            let crossed = WARN_GIB
                .into_iter()
                .filter(|limit| place.peak_mib > limit << 10)
                .max();
            if let Some(limit) = crossed {
                warnings.push(format!("{worker} took more than {limit} GiB of {device}"));
            }
        }
        for ((kind, plan), taken) in &self.plans {
            let Some(deviation) = deviation(taken.most_mib, taken.predicted_mib) else {
                continue;
            };
            if taken.most_mib.abs_diff(taken.predicted_mib) >= OF_NOTE_MIB && deviation.abs() > FAR_OFF {
                warnings.push(format!(
                    "plan {plan} on {kind} took {:.0} % {} than predicted",
                    100.0 * deviation.abs(),
                    if deviation > 0.0 { "more" } else { "less" }
                ));
            }
        }
        self.warnings = warnings;
    }
}

/// What was taken against what was predicted, as a share of the prediction, where there was one.
pub fn deviation(taken_mib: u64, predicted_mib: u64) -> Option<f64> {
    (predicted_mib > 0).then(|| taken_mib as f64 / predicted_mib as f64 - 1.0)
}

fn raise(peaks: &mut Vec<StagePeak>, new: StagePeak) {
    match peaks.binary_search_by_key(&new.stage, stage_of) {
        Ok(index) => {
            peaks[index].live_mib = peaks[index].live_mib.max(new.live_mib);
            peaks[index].own_mib = peaks[index].own_mib.max(new.own_mib);
        }
        Err(index) => peaks.insert(index, new),
    }
}

fn stage_of(peak: &StagePeak) -> MemoryStage {
    peak.stage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(plan: MemoryPlan, predicted_mib: u64, peak_mib: u64) -> MemoryUse {
        let peak = |stage, live_mib| StagePeak {
            stage,
            live_mib,
            own_mib: live_mib + 100,
        };
        MemoryUse {
            kind: DeviceKind::Cuda,
            device: "cuda:0 Test".to_owned(),
            plan,
            predicted_mib,
            peak_mib,
            least_free_mib: 24_000 - peak_mib,
            stages: vec![peak(MemoryStage::Load, 50), peak(MemoryStage::Denoise, peak_mib)],
        }
    }

    #[test]
    fn a_device_is_warned_of_above_the_gibibytes_that_workers_warn_of() {
        let warnings = |peak_mib: u64| {
            let mut usage = MemoryUsage::default();
            let worker = "w1".parse().unwrap();
            usage.add(&worker, 16, &used(MemoryPlan::default(), peak_mib, peak_mib));
            usage.judge();
            usage.warnings
        };
        assert_eq!(warnings(15 * 1024), Vec::<String>::new());
        assert_eq!(
            warnings(15 * 1024 + 1),
            ["w1 took more than 15 GiB of cuda:0 Test"]
        );
        assert_eq!(warnings(20 * 1024), ["w1 took more than 15 GiB of cuda:0 Test"]);
        assert_eq!(
            warnings(20 * 1024 + 1),
            ["w1 took more than 20 GiB of cuda:0 Test"]
        );
    }

    #[test]
    fn the_highest_of_each_stage_is_kept_and_what_is_out_of_the_ordinary_is_said() {
        let mut usage = MemoryUsage::default();
        let worker = "w1".parse().unwrap();
        usage.add(&worker, 16, &used(MemoryPlan::default(), 16_000, 20_000));
        usage.add(&worker, 16, &used(MemoryPlan::default(), 16_000, 15_000));
        usage.add(&worker, 16, &used(MemoryPlan::Sliced, 9000, 9100));
        usage.add(&worker, 16, &used(MemoryPlan::Offload, 80, 35));
        usage.add(&worker, 16, &used(MemoryPlan::Streamed, 400, 200));
        usage.judge();
        let stages = &usage.stages[&DeviceKind::Cuda];
        let found: Vec<(MemoryStage, u64)> = stages.iter().map(|peak| (peak.stage, peak.live_mib)).collect();
        assert_eq!(found, [(MemoryStage::Load, 50), (MemoryStage::Denoise, 20_000)]);
        let taken = &usage.plans[&(DeviceKind::Cuda, MemoryPlan::default())];
        assert_eq!(
            (taken.chunks, taken.least_mib, taken.most_mib),
            (2, 15_000, 20_000)
        );
        let place = usage.places.values().next().unwrap();
        assert_eq!((place.chunks, place.frames, place.least_free_mib), (5, 80, 4000));
        assert_eq!(
            usage.warnings,
            [
                "w1 took more than 15 GiB of cuda:0 Test",
                "plan batched on cuda took 25 % more than predicted",
                "plan streamed on cuda took 50 % less than predicted"
            ]
        );
    }
}
