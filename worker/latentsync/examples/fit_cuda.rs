//! Fits the constants of the memory prediction for CUDA to the results of `deploy/gpu-check`:
//! `cargo run --release -p latentsync --example fit_cuda -- worker/measurements/h200-2026-11-27-gpu-check.jsonl`
//!
//! It prints the constants that stand in the source, those that fit, and how far each prediction is above what was
//! measured. A test fails if the two are not equal for the committed measurements.

use std::io::Write as _;

use latentsync::cost::prediction::CUDA;
use latentsync::cost::prediction::fit::{fit, measurements};

const MIB: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give a file of results")?;
    let measured = measurements(&std::fs::read_to_string(path)?)?;
    let fitted = fit(&measured).ok_or("no constants fit: are there stages `need-...` in the file?")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "in the source: {CUDA:?}\nfitted:        {fitted:?}\n")?;
    writeln!(
        out,
        "{:26}{:>10}{:>10}{:>10}{:>10}",
        "MiB", "tensors", "pool", "measured", "too much"
    )?;
    for one in measured {
        let pool_mib = fitted.pool_size(one.predicted_live) / MIB;
        writeln!(
            out,
            "{:26}{:>10}{pool_mib:>10}{:>10.0}{:>10.0}",
            one.stage,
            one.predicted_live / MIB,
            one.pool_mib,
            pool_mib as f64 - one.pool_mib
        )?;
    }
    Ok(())
}
