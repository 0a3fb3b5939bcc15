use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};

use super::*;
use crate::Checkpoint;
use crate::cost::walk::walk;
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

#[test]
fn the_largest_term_is_what_the_walk_over_all_operations_finds() {
    let mut off = Vec::new();
    for (name, shape) in shapes() {
        for kind in [DeviceKind::Cpu, DeviceKind::Cuda] {
            for plan in MemoryPlan::ALL {
                for guided in [false, true] {
                    let account = Account::of(kind);
                    let walked = walk(&shape, &account, plan, guided).unwrap();
                    let terms = MemoryModel::terms(&shape, &account, plan, guided).unwrap();
                    // Weights are the same sum on both sides, and would hide the tensors' error.
                    let tensors = |bytes: u64| (bytes - terms[0].weights) as f64;
                    let ratio = tensors(terms[0].bytes) / tensors(walked.peak());
                    if !(0.95..1.05).contains(&ratio) {
                        let highest = walked.stages.iter().max_by_key(|stage| stage.peak);
                        off.push(format!(
                            "{name}, {kind}, {plan}, guided {guided}: {ratio:.3}, {} of {highest:?}",
                            terms[0]
                        ));
                    }
                }
            }
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}

/// MiB that the published model needs on CUDA in a half type, context included.
fn on_cuda(px: usize, guided: bool) -> Needs {
    let shape = ModelShape::published(px).unwrap();
    MemoryModel::needs(&shape, DeviceKind::Cuda, DType::F16, guided).unwrap()
}

/// What is left of a card for its own use and others'.
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
fn needs_never_grow_along_the_ladder() {
    for (name, shape) in shapes() {
        for (kind, dtype) in [(DeviceKind::Cpu, DType::F32), (DeviceKind::Cuda, DType::F16)] {
            for guided in [false, true] {
                let needs = MemoryModel::needs(&shape, kind, dtype, guided).unwrap();
                let grows = needs.mib.windows(2).any(|pair| pair[0] < pair[1]);
                assert!(!grows && needs.leanest() > 0, "{name}: {needs:?}");
            }
        }
    }
}

#[test]
fn an_explanation_names_the_term_that_decides() {
    let shape = ModelShape::published(512).unwrap();
    for kind in [DeviceKind::Cpu, DeviceKind::Cuda] {
        let dtype = if kind == DeviceKind::Cpu {
            DType::F32
        } else {
            DType::F16
        };
        for guided in [false, true] {
            for plan in MemoryPlan::ALL {
                let explained = MemoryModel::explain(&shape, kind, dtype, plan, guided).unwrap();
                eprintln!("512 px, {kind}, guided {guided}: {explained}");
                assert!(
                    explained
                        .to_string()
                        .starts_with(&format!("{plan}: {} MiB", explained.need_mib))
                );
            }
        }
    }
    assert!(MemoryModel::is_confirmed(DeviceKind::Cpu) && !MemoryModel::is_confirmed(DeviceKind::Cuda));
}
