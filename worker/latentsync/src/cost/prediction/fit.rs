//! Fits the constants of the prediction for CUDA to measurements: the results of `deploy/gpu-check` on a GPU. The example
//! `fit_cuda` prints the fit for a file of them; a test compares the committed constants with it.
//!
//! Each measurement gives the size of the context and the largest size of the driver's pool for one plan. The pool is more
//! than the largest sum of tensors that the walk predicts, because it is fragmented. Three constants are fitted:
//! - the context: the largest one that was measured, in steps of 4 MiB;
//! - the loss that grows with the tensors, as one part in `share`, and the fixed loss, in steps of the chunks by which the
//!   pool grows. Of all pairs that leave at least one chunk above every measurement, because two sessions on the same GPU
//!   differed by that much, it is the pair with the least sum of what is predicted too much.

use candle_core::{DType, Error, Result};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};
use serde::Deserialize;

use super::MemoryPredictor;
use super::cuda_constants::CudaConstants;
use crate::cost::shape::ModelShape;

/// The steps of the fitted context in MiB.
const CONTEXT_STEP_MIB: u64 = 4;
/// The size of the chunks in MiB by which the driver's pool grows.
pub const POOL_CHUNK_MIB: u64 = 32;
/// The shares that are tried; a loss of more than a quarter is no fragmentation.
const SHARES: std::ops::RangeInclusive<u64> = 4..=32;
/// The most chunks that are tried for the fixed loss.
const MOST_CHUNKS: u64 = 16;
const MIB: u64 = 1 << 20;

/// What was measured of one plan, with what the walk predicts.
#[derive(Clone, Debug)]
pub struct CudaMeasurement {
    /// The stage of `deploy/gpu-check`, such as `need-256-sliced-1.5`.
    pub stage: String,
    /// The measured size of the context in MiB.
    pub context_mib: f64,
    /// The largest measured size of the pool in MiB.
    pub pool_mib: f64,
    /// The bytes that are predicted to be in tensors at once at most.
    pub predicted_live: u64,
}

/// A line of the results; lines of other checks have other fields.
#[derive(Deserialize)]
struct Line {
    stage: String,
    check: Option<String>,
    result: Option<serde_json::Value>,
}

/// Reads the measurements of the published model's needs in `f16` from the JSON lines of `deploy/gpu-check`.
///
/// # Errors
/// Fails if a line is no JSON object with a stage, or a stage that measures a need has no figures.
pub fn measurements(lines: &str) -> Result<Vec<CudaMeasurement>> {
    let mut measured = Vec::new();
    for line in lines.lines() {
        let line: Line = serde_json::from_str(line).map_err(Error::wrap)?;
        let parts: Vec<&str> = line.stage.splitn(3, '-').collect();
        let (["need", px, rest], Some("window")) = (parts.as_slice(), line.check.as_deref()) else {
            continue;
        };
        let invalid = || Error::Msg(format!("the stage `{}` has no need that can be used", line.stage));
        let (plan, guidance) = rest.rsplit_once('-').ok_or_else(invalid)?;
        let plan: MemoryPlan = plan.parse().map_err(Error::wrap)?;
        let guidance: f64 = guidance.parse().map_err(Error::wrap)?;
        let memory = line.result.as_ref().and_then(|result| result.get("memory"));
        let figure = |name| {
            memory
                .and_then(|memory| memory.get(name)?.as_f64())
                .ok_or_else(invalid)
        };
        let shape = ModelShape::published(px.parse().map_err(Error::wrap)?).map_err(Error::wrap)?;
        let mut predictor = MemoryPredictor::with_dtype(shape, DeviceKind::Cuda, DType::F16)?;
        measured.push(CudaMeasurement {
            context_mib: figure("own")? - figure("reserved")?,
            pool_mib: figure("reserved_peak")?,
            predicted_live: predictor.tightest_stage(plan, guidance > 1.0).peak,
            stage: line.stage,
        });
    }
    Ok(measured)
}

/// Returns the constants that fit the measurements best; `None` if none do, as with no measurement.
pub fn fit(measured: &[CudaMeasurement]) -> Option<CudaConstants> {
    let contexts = measured.iter().map(|one| whole_mib(one.context_mib));
    let context_mib = contexts.max()?.next_multiple_of(CONTEXT_STEP_MIB);
    let chunks = (0..=MOST_CHUNKS).map(|chunks| chunks * POOL_CHUNK_MIB);
    let pairs = chunks.flat_map(|fixed_mib| SHARES.map(move |share| (share, fixed_mib)));
    let candidates = pairs.map(|(share, fixed_mib)| CudaConstants {
        context_mib,
        share,
        fixed_mib,
    });
    let covers = |constants: &CudaConstants| {
        measured.iter().all(|one| {
            constants.pool_size(one.predicted_live) / MIB >= whole_mib(one.pool_mib) + POOL_CHUNK_MIB
        })
    };
    let sum = |constants: &CudaConstants| -> u64 {
        let sizes = measured.iter().map(|one| constants.pool_size(one.predicted_live));
        sizes.sum()
    };
    candidates.filter(covers).min_by_key(sum)
}

/// Rounds a figure in MiB up to a whole number of them.
fn whole_mib(mib: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "figures of memory are small and not negative"
    )]
    let whole = mib.ceil().max(0.0) as u64;
    whole
}
