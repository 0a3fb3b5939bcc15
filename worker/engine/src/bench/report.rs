//! What a measurement says, as the engine prints it and as `bench --json` does.

use serde::{Deserialize, Serialize};

use super::Part;
use super::machine::Machine;

/// One part's figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    pub part: Part,
    /// Wall time of every repetition.
    pub seconds: Vec<f64>,
    /// Mean processor time of a repetition over all threads.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
    /// Resident with the networks loaded, before the part ran.
    #[serde(default)]
    pub baseline_bytes: u64,
    /// Largest resident size over warm-up and repetitions.
    #[serde(default)]
    pub peak_bytes: u64,
    /// Whether the peak is of this part alone; else it is of its process from the start, loading included.
    #[serde(default)]
    pub peak_was_reset: bool,
    /// Multiplications and additions of one repetition, in units of 10^9, where they are counted.
    #[serde(default)]
    pub gflop: Option<f64>,
}

impl PartReport {
    /// The middle repetition's time, or the mean of the two in the middle; 0 if there is none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    pub fn min(&self) -> f64 {
        self.seconds.iter().copied().reduce(f64::min).unwrap_or_default()
    }

    pub fn max(&self) -> f64 {
        self.seconds.iter().copied().reduce(f64::max).unwrap_or_default()
    }

    /// Peak bytes on top of what was there before the part ran.
    pub fn extra_bytes(&self) -> u64 {
        self.peak_bytes.saturating_sub(self.baseline_bytes)
    }
}

/// Which weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WeightsReport {
    pub identity: String,
    pub synthetic: bool,
}

/// What the engine prints for one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineReport {
    pub weights: WeightsReport,
    pub resolution_px: usize,
    /// Memory plan.
    pub plan: String,
    /// Build, instruction set and device.
    pub numerics_fingerprint: String,
    pub part: PartReport,
}

/// All parts. The reports of other implementations have this form, too; what they leave out is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Program, version, instruction set and device.
    pub software: String,
    pub threads: usize,
    pub resolution_px: usize,
    pub frames: usize,
    pub steps: u32,
    /// Memory plan; the other implementation has none.
    #[serde(default)]
    pub plan: String,
    #[serde(default)]
    pub machine: Machine,
    #[serde(default)]
    pub weights: WeightsReport,
    pub parts: Vec<PartReport>,
}

impl Report {
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
