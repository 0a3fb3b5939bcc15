//! The device memory that a job used, for its report.

use std::collections::BTreeMap;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryUse, StagePeak, WARN_GIB};
use serde::{Deserialize, Serialize};

/// A peak that deviates from its prediction by more than this share causes a warning.
const WARN_DEVIATION: f64 = 0.15;
/// A smaller difference causes no warning, because an allocator may keep that much freed memory, depending on
/// timing.
const WARN_DIFFERENCE_MIB: u64 = 128;

/// The memory use over all chunks of a job that are done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// The highest use of each stage, in the order of the stages.
    pub stages: BTreeMap<DeviceKind, Vec<StagePeak>>,
    pub plans: BTreeMap<(DeviceKind, MemoryPlan), PlanUse>,
    /// The devices that rendered chunks, by worker and device name.
    pub devices: BTreeMap<(WorkerId, String), DeviceUse>,
    pub warnings: Vec<String>,
}

/// The memory use under one plan on one kind of device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanUse {
    pub chunks: u64,
    /// The highest prediction; predictions are corrected while a job runs.
    pub predicted_mib: u64,
    /// The lowest peak of a chunk.
    pub least_mib: u64,
    /// The highest peak of a chunk.
    pub most_mib: u64,
}

/// The memory use of one device of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUse {
    pub chunks: u64,
    pub frames: u64,
    pub peak_mib: u64,
    /// The least free memory that was measured while a chunk ran.
    pub least_free_mib: u64,
}

impl MemoryUsage {
    /// Adds the memory use of a finished chunk.
    pub fn add(&mut self, worker: &WorkerId, frames: u64, used: &MemoryUse) {
        let peaks = self.stages.entry(used.kind).or_default();
        for stage in &used.stages {
            merge_peak(peaks, *stage);
        }
        let plan = self.plans.entry((used.kind, used.plan)).or_insert(PlanUse {
            least_mib: u64::MAX,
            ..PlanUse::default()
        });
        plan.chunks += 1;
        plan.predicted_mib = plan.predicted_mib.max(used.predicted_mib);
        plan.least_mib = plan.least_mib.min(used.peak_mib);
        plan.most_mib = plan.most_mib.max(used.peak_mib);
        let device = (worker.clone(), used.device.clone());
        let device = self.devices.entry(device).or_insert(DeviceUse {
            least_free_mib: u64::MAX,
            ..DeviceUse::default()
        });
        device.chunks += 1;
        device.frames += frames;
        device.peak_mib = device.peak_mib.max(used.peak_mib);
        device.least_free_mib = device.least_free_mib.min(used.least_free_mib);
    }

    /// Finds what people should be warned of, once all chunks are added.
    pub fn compute_warnings(&mut self) {
        let mut warnings = Vec::new();
        for ((worker, device), used) in &self.devices {
            let is_crossed = |limit: &u64| used.peak_mib > limit << 10;
            let crossed = WARN_GIB.into_iter().filter(is_crossed).max();
            if let Some(limit) = crossed {
                warnings.push(format!("{worker} took more than {limit} GiB of {device}"));
            }
        }
        for ((kind, plan), taken) in &self.plans {
            let Some(deviation) = deviation(taken.most_mib, taken.predicted_mib) else {
                continue;
            };
            let difference_mib = taken.most_mib.abs_diff(taken.predicted_mib);
            if difference_mib >= WARN_DIFFERENCE_MIB && deviation.abs() > WARN_DEVIATION {
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

/// The difference between use and prediction as a share of the prediction; `None` if nothing was predicted.
pub fn deviation(taken_mib: u64, predicted_mib: u64) -> Option<f64> {
    (predicted_mib > 0).then(|| taken_mib as f64 / predicted_mib as f64 - 1.0)
}

/// Adds the peak of a stage to the list, which is sorted by stage and holds the highest peak of each.
fn merge_peak(peaks: &mut Vec<StagePeak>, new: StagePeak) {
    match peaks.binary_search_by_key(&new.stage, |peak| peak.stage) {
        Ok(index) => {
            peaks[index].live_mib = peaks[index].live_mib.max(new.live_mib);
            peaks[index].own_mib = peaks[index].own_mib.max(new.own_mib);
        }
        Err(index) => peaks.insert(index, new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::wire::memory::MemoryStage;

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
            shortages: Vec::new(),
            stages: vec![peak(MemoryStage::Load, 50), peak(MemoryStage::Denoise, peak_mib)],
        }
    }

    #[test]
    fn a_device_is_warned_of_above_the_gibibytes_that_workers_warn_of() {
        let warnings = |peak_mib: u64| {
            let mut usage = MemoryUsage::default();
            let worker = "w1".parse().unwrap();
            usage.add(&worker, 16, &used(MemoryPlan::default(), peak_mib, peak_mib));
            usage.compute_warnings();
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
        usage.compute_warnings();
        let stages = &usage.stages[&DeviceKind::Cuda];
        let found: Vec<(MemoryStage, u64)> = stages.iter().map(|peak| (peak.stage, peak.live_mib)).collect();
        assert_eq!(found, [(MemoryStage::Load, 50), (MemoryStage::Denoise, 20_000)]);
        let taken = &usage.plans[&(DeviceKind::Cuda, MemoryPlan::default())];
        assert_eq!(
            (taken.chunks, taken.least_mib, taken.most_mib),
            (2, 15_000, 20_000)
        );
        let device = usage.devices.values().next().unwrap();
        assert_eq!(
            (device.chunks, device.frames, device.least_free_mib),
            (5, 80, 4000)
        );
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
