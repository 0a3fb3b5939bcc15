//! The results of all checks, as the table and the JSON object that `memtest` prints.

use std::fmt::Write as _;

use latentfarm_common::wire::job::WeightsKind;
use serde::Serialize;

const MIB: f64 = 1_048_576.0;

/// The result of one check.
#[derive(Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) passed: bool,
    /// The measured figures on one line.
    pub(super) figures: String,
}

/// The time and memory that one window takes.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct WindowCost {
    pub(super) seconds: f64,
    /// Peak of the bytes in tensors and buffers.
    pub(super) peak_bytes: u64,
}

/// What a window costs without and with guidance.
#[derive(Serialize)]
pub(super) struct GuidanceCost {
    pub(super) off: WindowCost,
    pub(super) on: WindowCost,
}

#[derive(Serialize)]
pub(super) struct MemtestReport {
    pub(super) device: String,
    pub(super) numerics_fingerprint: String,
    pub(super) weights_kind: WeightsKind,
    /// Whether all checks have passed.
    pub(super) passed: bool,
    pub(super) checks: Vec<Check>,
    pub(super) guidance: GuidanceCost,
    /// Bytes in use and bytes held after each window of the leak check.
    pub(super) baselines: Vec<(u64, u64)>,
}

impl MemtestReport {
    pub(super) fn table(&self) -> String {
        let mut text = format!("{} on {}\n", self.numerics_fingerprint, self.device);
        if let Some(mark) = self.weights_kind.mark() {
            let _infallible = writeln!(text, "{mark}");
        }
        text.push('\n');
        let names = self.checks.iter().map(|check| check.name.len());
        let width = names.max().unwrap_or(0);
        for check in &self.checks {
            let verdict = if check.passed { "ok" } else { "FAILED" };
            let _infallible = writeln!(text, "{:<width$}  {verdict:<6}  {}", check.name, check.figures);
        }
        let _infallible = writeln!(text, "\n{:<10}{:>10}{:>14}", "guidance", "seconds", "peak in use");
        for (name, cost) in [("off", self.guidance.off), ("on", self.guidance.on)] {
            let peak = format!("{:.1} MiB", cost.peak_bytes as f64 / MIB);
            let _infallible = writeln!(text, "{name:<10}{:>10.2}{peak:>14}", cost.seconds);
        }
        let verdict = if self.passed { "PASSED" } else { "FAILED" };
        let _infallible = writeln!(text, "\nverdict: {verdict}");
        text
    }
}
