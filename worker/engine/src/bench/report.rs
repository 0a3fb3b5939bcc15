//! The results of measurements: of one part as the engine prints them, and of all parts as `latentfarm-worker
//! bench --json` does.

use latentfarm_common::wire::job::WeightsKind;
use serde::{Deserialize, Serialize};

use super::Part;
use super::device_memory::DeviceMemoryUse;
use super::machine::BenchMachine;

/// The results of one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    /// The part that was measured.
    pub part: Part,
    /// Wall time of every repetition, in seconds.
    pub seconds: Vec<f64>,
    /// Mean processor time of a repetition over all threads, in seconds.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
    /// Resident bytes with the networks loaded, before the part ran.
    #[serde(default)]
    pub baseline_bytes: u64,
    /// Highest resident bytes during warm-up and repetitions.
    #[serde(default)]
    pub peak_bytes: u64,
    /// True if the peak is that of this part alone, false if it is that of its process since it began,
    /// loading included.
    #[serde(default)]
    pub peak_was_reset: bool,
    /// The memory of the GPU; `None` if the part ran on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_memory: Option<DeviceMemoryUse>,
    /// Multiplications and additions of one repetition, in units of 10^9, if they are counted.
    #[serde(default)]
    pub gflop: Option<f64>,
}

impl PartReport {
    /// Returns the median time of a repetition in seconds; 0 if there is none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// Returns the shortest time of a repetition in seconds; 0 if there is none.
    pub fn min(&self) -> f64 {
        self.seconds.iter().copied().reduce(f64::min).unwrap_or_default()
    }

    /// Returns the longest time of a repetition in seconds; 0 if there is none.
    pub fn max(&self) -> f64 {
        self.seconds.iter().copied().reduce(f64::max).unwrap_or_default()
    }

    /// Returns the peak bytes on top of those before the part ran.
    pub fn extra_bytes(&self) -> u64 {
        self.peak_bytes.saturating_sub(self.baseline_bytes)
    }
}

/// The weights that a measurement used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WeightsReport {
    /// The digest that identifies the checkpoint.
    pub identity: String,
    /// What the weights are.
    pub kind: WeightsKind,
}

/// The results of one part as the engine prints them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineReport {
    /// The weights that were used.
    pub weights: WeightsReport,
    /// Side of the face crop in pixels.
    pub resolution_px: usize,
    /// Name of the memory plan.
    pub plan: String,
    /// Build, instruction set, device and number type.
    pub numerics_fingerprint: String,
    /// The results of the part.
    pub part: PartReport,
}

/// The results of all parts. The reports of other implementations have this form, too; what they leave out is
/// unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Program, version, instruction set and device.
    pub software: String,
    /// Number of threads that computed.
    pub threads: usize,
    /// Side of the face crop in pixels.
    pub resolution_px: usize,
    /// Number of frames of a window.
    pub frames: usize,
    /// Number of denoising steps of a window.
    pub steps: u32,
    /// Name of the memory plan; empty for another implementation, which has none.
    #[serde(default)]
    pub plan: String,
    /// The machine that was measured.
    #[serde(default)]
    pub machine: BenchMachine,
    /// The weights that were used.
    #[serde(default)]
    pub weights: WeightsReport,
    /// The results of each part.
    pub parts: Vec<PartReport>,
}

impl BenchReport {
    /// Returns the results of `part`, if it was measured.
    pub fn part(&self, part: Part) -> Option<&PartReport> {
        self.parts.iter().find(|report| report.part == part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taking(seconds: &[f64]) -> PartReport {
        PartReport {
            part: Part::Unet,
            seconds: seconds.to_vec(),
            cpu_seconds: None,
            baseline_bytes: 0,
            peak_bytes: 0,
            peak_was_reset: true,
            device_memory: None,
            gflop: None,
        }
    }

    #[test]
    fn medians_do_not_depend_on_order() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(taking(&[3.0, 1.0, 2.0]).median(), 2.0));
        assert!(close(taking(&[4.0, 1.0, 3.0, 2.0]).median(), 2.5));
        assert!(close(taking(&[]).median(), 0.0));
        assert!(close(taking(&[4.0, 1.0, 3.0]).min(), 1.0));
        assert!(close(taking(&[4.0, 1.0, 3.0]).max(), 4.0));
    }

    #[test]
    fn parts_have_the_same_names_everywhere() {
        use clap::ValueEnum as _;
        for part in Part::value_variants() {
            assert_eq!(serde_json::json!(part), part.name());
            assert_eq!(Part::from_str(part.name(), false), Ok(*part));
        }
    }
}
