//! Prints the results of the checks: each is a JSON object on a line of its own.

use std::io::{self, Write};

use latentfarm_common::wire::memory::MemorySample;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Prints the result of a check or of one of its steps, which took `seconds`.
pub(super) fn print(output: &mut impl Write, check: &str, result: &Value, seconds: f64) -> io::Result<()> {
    let seconds = (seconds * 1000.0).round() / 1000.0;
    let line = json!({ "check": check, "seconds": seconds, "result": result });
    writeln!(output, "{line}")?;
    output.flush()
}

/// Returns a reading as JSON, with every figure in MiB to one decimal place.
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

/// Fails if any of the checks failed.
pub(super) fn all_passed(failed: usize, total: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        failed == 0,
        "{failed} of {total} checks failed: see their lines above"
    );
    Ok(())
}
