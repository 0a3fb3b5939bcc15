//! What the suite found, as a table and as JSON.

use std::fmt::Write as _;

use serde_json::json;

const MIB: f64 = 1_048_576.0;

/// One thing that was looked at.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) passed: bool,
    pub(super) figures: String,
}

/// What guidance costs.
#[derive(Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    /// Highest use of tensors and buffers, in bytes.
    pub(super) peak: u64,
}

pub(super) struct Report {
    pub(super) device: String,
    pub(super) numerics_fingerprint: String,
    pub(super) synthetic: bool,
    pub(super) checks: Vec<Check>,
    pub(super) guidance_off: Cost,
    pub(super) guidance_on: Cost,
    /// After each window of the search for leaks: bytes in use, bytes held.
    pub(super) baselines: Vec<(u64, u64)>,
}

impl Report {
    pub(super) fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    fn verdict(&self) -> &'static str {
        if self.passed() { "PASSED" } else { "FAILED" }
    }

    pub(super) fn json(&self) -> String {
        let check =
            |check: &Check| json!({"name": check.name, "passed": check.passed, "figures": check.figures});
        let cost = |cost: Cost| json!({"seconds": cost.seconds, "peak_bytes": cost.peak});
        let report = json!({
            "device": self.device,
            "numerics_fingerprint": self.numerics_fingerprint,
            "synthetic_weights": self.synthetic,
            "passed": self.passed(),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
            "guidance": {"off": cost(self.guidance_off), "on": cost(self.guidance_on)},
            "baselines": self.baselines,
        });
        format!("{report:#}")
    }

    pub(super) fn table(&self) -> String {
        let mut text = format!("{} on {}\n", self.numerics_fingerprint, self.device);
        if self.synthetic {
            text.push_str("SYNTHETIC WEIGHTS\n");
        }
        text.push('\n');
        let width = self
            .checks
            .iter()
            .map(|check| check.name.len())
            .max()
            .unwrap_or(0);
        for Check {
            name,
            passed,
            figures,
        } in &self.checks
        {
            let verdict = if *passed { "ok" } else { "FAILED" };
            let _infallible = writeln!(text, "{name:<width$}  {verdict:<6}  {figures}");
        }
        let _infallible = writeln!(text, "\n{:<10}{:>10}{:>14}", "guidance", "seconds", "peak in use");
        for (name, cost) in [("off", self.guidance_off), ("on", self.guidance_on)] {
            let peak = format!("{:.1} MiB", cost.peak as f64 / MIB);
            let _infallible = writeln!(text, "{name:<10}{:>10.2}{peak:>14}", cost.seconds);
        }
        let _infallible = writeln!(text, "\nverdict: {}", self.verdict());
        text
    }
}
