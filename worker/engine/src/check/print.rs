//! The form of the results: a JSON object on a line of its own for each.

use std::io::{self, Write};

use latentfarm_common::wire::memory::MemorySample;
use serde::Serialize;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

pub(super) fn print(output: &mut impl Write, check: &str, result: &Value, seconds: f64) -> io::Result<()> {
    let seconds = (seconds * 1000.0).round() / 1000.0;
    let line = json!({ "check": check, "seconds": seconds, "result": result });
    writeln!(output, "{line}")?;
    output.flush()
}

/// A reading in MiB with one decimal place.
pub(super) fn memory(sample: &MemorySample) -> Value {
    #[derive(Serialize)]
    struct Mib {
        free: f64,
        total: f64,
        own: f64,
        reserved: f64,
        reserved_peak: f64,
        live: f64,
        live_peak: f64,
        host_rss: f64,
    }
    let mib = |bytes: u64| (bytes as f64 / MIB as f64 * 10.0).round() / 10.0;
    json!(Mib {
        free: mib(sample.free),
        total: mib(sample.total),
        own: mib(sample.own),
        reserved: mib(sample.reserved),
        reserved_peak: mib(sample.reserved_peak),
        live: mib(sample.live),
        live_peak: mib(sample.live_peak),
        host_rss: mib(sample.host_rss),
    })
}

/// An error if any of the checks failed.
pub(super) fn all_passed(failed: usize, asked: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        failed == 0,
        "{failed} of {asked} checks failed: the lines above say which and why"
    );
    Ok(())
}
