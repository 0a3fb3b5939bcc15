//! The form of the results: a JSON object on a line of its own for each.

use std::io::{self, Write};

use latentfarm_common::wire::memory::MemorySample;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

pub(super) fn print(output: &mut impl Write, check: &str, result: &Value, seconds: f64) -> io::Result<()> {
    let seconds = (seconds * 1000.0).round() / 1000.0;
    let line = json!({ "check": check, "seconds": seconds, "result": result });
    writeln!(output, "{line}")?;
    output.flush()
}

/// A reading with every figure in MiB, to one decimal place.
pub(super) fn memory(sample: &MemorySample) -> Value {
    let mut figures = json!(sample);
    for figure in figures
        .as_object_mut()
        .into_iter()
        .flat_map(|all| all.values_mut())
    {
        let bytes = figure.as_u64().unwrap_or(0);
        *figure = json!((bytes as f64 / MIB as f64 * 10.0).round() / 10.0);
    }
    figures
}

/// An error if any of the checks failed.
pub(super) fn all_passed(failed: usize, asked: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        failed == 0,
        "{failed} of {asked} checks failed: the lines above say which and why"
    );
    Ok(())
}
