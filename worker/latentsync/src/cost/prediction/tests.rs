use std::time::{Duration, Instant};

use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};

use super::*;
use crate::Checkpoint;
use crate::synth::{Size, synthesize};

fn synthetic(size: Size) -> ModelShape {
    let dir = tempfile::tempdir().unwrap();
    synthesize(dir.path(), size, 3).unwrap();
    ModelShape::of(&Checkpoint::open(dir.path()).unwrap())
}

fn shapes() -> Vec<(String, ModelShape)> {
    let (tiny, small) = (synthetic(Size::Tiny), synthetic(Size::Small));
    let full = ModelShape::published(256).unwrap();
    let mut shapes = Vec::new();
    for px in [64, 128, 256, 512] {
        shapes.push((format!("tiny, {px} px"), tiny.clone().at(px)));
    }
    for px in [256, 512] {
        shapes.push((format!("small, {px} px"), small.clone().at(px)));
        shapes.push((format!("full, {px} px"), full.clone().at(px)));
    }
    shapes
}

/// Predicts the MiB that the published model needs on CUDA in a half type, context included.
fn on_cuda(px: usize, guided: bool) -> MemoryRequirements {
    let shape = ModelShape::published(px).unwrap();
    let mut predictor = MemoryPredictor::with_dtype(shape, DeviceKind::Cuda, DType::F16).unwrap();
    predictor.needs(guided)
}

/// The memory of a card that is left to the driver and to other processes.
const RESERVE_MIB: u64 = 256;

#[test]
fn version_1_5_at_256_px_fits_in_4_gib_with_all_weights_on_the_device() {
    for guided in [false, true] {
        let needs = on_cuda(256, guided);
        assert!(
            needs.of(MemoryPlan::TwoPassNorm) < 4096,
            "guided {guided}: {needs:?}"
        );
    }
}

#[test]
fn version_1_6_at_512_px_fits_in_8_gib_with_all_weights_on_the_device() {
    for guided in [false, true] {
        let needs = on_cuda(512, guided);
        assert!(
            needs.of(MemoryPlan::TwoPassNorm) < 8192,
            "guided {guided}: {needs:?}"
        );
    }
}

#[test]
fn both_versions_have_a_plan_for_a_card_of_6_gib() {
    for px in [256, 512] {
        for guided in [false, true] {
            let needs = on_cuda(px, guided);
            let plan = needs.fastest_within(MemoryPlan::default(), 6144 - RESERVE_MIB);
            assert!(plan.is_some(), "{px} px, guided {guided}: {needs:?}");
        }
    }
}

#[test]
fn version_1_5_with_streamed_weights_fits_on_a_card_of_4_gib_with_room_to_spare() {
    for guided in [false, true] {
        let need = on_cuda(256, guided).of(MemoryPlan::Streamed);
        assert!(need + 4 * RESERVE_MIB <= 4096, "guided {guided}: {need} MiB");
    }
}

#[test]
fn no_plan_is_predicted_to_need_more_than_the_plan_before_it() {
    for (name, shape) in shapes() {
        for (kind, dtype) in [(DeviceKind::Cpu, DType::F32), (DeviceKind::Cuda, DType::F16)] {
            let mut predictor = MemoryPredictor::with_dtype(shape.clone(), kind, dtype).unwrap();
            for guided in [false, true] {
                // These are the predictions themselves: `needs` would hide a growth, because it takes the
                // running minimum.
                let needs = MemoryPlan::ALL.map(|plan| predictor.predict(plan, guided).need_mib);
                assert!(
                    needs.is_sorted_by(|a, b| a >= b),
                    "{name}, {kind}, guided {guided}: {needs:?}"
                );
            }
        }
    }
}

#[test]
fn a_prediction_is_decided_by_the_stage_with_the_highest_peak() {
    let shape = ModelShape::published(512).unwrap();
    for (kind, dtype, base) in [
        (DeviceKind::Cpu, DType::F32, HOST_BASE),
        (DeviceKind::Cuda, DType::F16, CUDA_CONTEXT),
    ] {
        let mut predictor = MemoryPredictor::with_dtype(shape.clone(), kind, dtype).unwrap();
        for guided in [false, true] {
            for plan in MemoryPlan::ALL {
                let mut stages = predictor.stages(plan, guided).to_vec();
                stages.extend(predictor.walked(plan, guided).in_f32.clone());
                let prediction = predictor.predict(plan, guided);
                let tightest = prediction.tightest;
                assert!(stages.contains(&tightest), "{kind}, {plan}");
                assert!(
                    stages.iter().all(|stage| stage.peak <= tightest.peak),
                    "{kind}, {plan}"
                );
                assert!(
                    prediction.need_mib * MIB >= base + tightest.peak,
                    "{kind}, {plan}"
                );
                let text = prediction.to_string();
                let again = if tightest.in_f32 { " again in f32" } else { "" };
                let expected = format!("; {}{again}, ", tightest.stage);
                assert!(text.contains(&expected), "`{expected}` is not in `{text}`");
            }
        }
    }
}

#[test]
fn a_plan_is_walked_once_and_predicted_within_5_ms_afterwards() {
    let shape = ModelShape::published(512).unwrap();
    let started = Instant::now();
    let mut predictor = MemoryPredictor::with_dtype(shape, DeviceKind::Cuda, DType::F16).unwrap();
    let built = started.elapsed();
    let started = Instant::now();
    let first = predictor.needs(true);
    let cold = started.elapsed();
    let started = Instant::now();
    let second = predictor.needs(true);
    let warm = started.elapsed();
    eprintln!("built in {built:?}, all plans walked in {cold:?}, predicted anew in {warm:?}");
    assert_eq!(first, second);
    assert!(warm < Duration::from_millis(5), "{warm:?}");
}

/// The measurements of `latentfarm-engine-cuda check` on a GPU, one window of one step each: the context with
/// modules, and the largest size of the pool.
#[derive(serde::Deserialize)]
struct Measured {
    gpu: String,
    needs: Vec<MeasuredNeed>,
}

#[derive(serde::Deserialize)]
struct MeasuredNeed {
    resolution_px: usize,
    guided: bool,
    plan: MemoryPlan,
    context_mib: u64,
    pool_mib: u64,
}

#[test]
fn every_need_measured_on_a_gpu_is_predicted_with_less_than_an_eighth_too_much() {
    let measured: Measured = serde_json::from_str(include_str!("measured.json")).unwrap();
    assert!(measured.needs.len() >= 12, "{} has few figures", measured.gpu);
    for need in measured.needs {
        let shape = ModelShape::published(need.resolution_px).unwrap();
        let mut predictor = MemoryPredictor::with_dtype(shape, DeviceKind::Cuda, DType::F16).unwrap();
        // No value left the range of `f16` in the measurements.
        let live = predictor.tightest_stage(need.plan, need.guided).peak;
        let predicted = (CUDA_CONTEXT + CUDA.pool_size(live)).div_ceil(MIB);
        let real = need.context_mib + need.pool_mib;
        assert!(
            real <= predicted && predicted <= real + real / 8,
            "{} px, guided {}, {}: {predicted} MiB predicted, {real} MiB on an {}",
            need.resolution_px,
            need.guided,
            need.plan,
            measured.gpu
        );
    }
}

#[test]
fn a_picture_again_in_f32_needs_no_more_memory_at_256_px_and_is_in_the_need_at_512_px() {
    let mib = |px, plan| {
        let shape = ModelShape::published(px).unwrap();
        let mut predictor = MemoryPredictor::with_dtype(shape, DeviceKind::Cuda, DType::F16).unwrap();
        let ordinary = predictor.tightest_stage(plan, false);
        let prediction = predictor.predict(plan, false);
        let need_mib = (CUDA_CONTEXT + CUDA.pool_size(prediction.tightest.peak)).div_ceil(MIB);
        assert_eq!(prediction.need_mib, need_mib);
        (
            ordinary.peak / MIB,
            prediction.tightest.peak / MIB,
            prediction.tightest.in_f32,
        )
    };
    for plan in MemoryPlan::ALL {
        let (ordinary, highest, in_f32) = mib(256, plan);
        assert_eq!((ordinary, in_f32), (highest, false), "{plan}");
    }
    // The autoencoder's weights in the half type are not on the device meanwhile, so that the plans that keep
    // all weights there need a tenth more at most.
    assert_eq!(mib(512, MemoryPlan::SequentialGuidance), (3995, 3995, false));
    assert_eq!(mib(512, MemoryPlan::Sliced), (3279, 3588, true));
    assert_eq!(mib(512, MemoryPlan::Streamed), (689, 1158, true));
}

#[test]
fn the_constants_for_cuda_are_those_that_fit_the_committed_measurements() {
    let lines = include_str!("../../../../measurements/h200-2026-11-27-gpu-check.jsonl");
    let measured = fit::measurements(lines).unwrap();
    assert_eq!(
        measured.len(),
        14,
        "two sizes, six plans, and one without guidance"
    );
    assert_eq!(fit::fit(&measured), Some(CUDA));
}

#[test]
fn a_fit_leaves_a_chunk_above_every_measurement_and_no_more_than_it_must() {
    let measured = |live_mib: u64, pool_mib: f64| fit::CudaMeasurement {
        stage: format!("need-{live_mib}"),
        context_mib: 500.5,
        pool_mib,
        predicted_live: live_mib * MIB,
    };
    // One part in eight and 64 MiB, less the chunk that is left free.
    let exact = [800, 1600, 3200].map(|live| measured(live, (live + live / 8 + 64 - 32) as f64));
    let expected = CudaConstants {
        context_mib: 504,
        share: 8,
        fixed_mib: 64,
    };
    assert_eq!(fit::fit(&exact), Some(expected));
    assert_eq!(fit::fit(&[]), None);
    assert_eq!(
        fit::fit(&[measured(1000, 9000.0)]),
        None,
        "nine times as much is no fragmentation"
    );
    let error = fit::measurements(r#"{"stage":"need-256-fast-1","check":"window","result":{}}"#);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("`fast` is not a memory plan")
    );
}
