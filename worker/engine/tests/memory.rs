//! Tests of the engine's memory, to the byte. This binary installs the counting allocator, and each test runs
//! in a process of its own with the environment of an engine.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "helpers of tests are tests too"
)]

mod harness;

use std::cell::Cell;
use std::rc::Rc;

use candle_core::DType;
use harness::stage_budget::StageBudget;
use harness::{
    Weights, answer, as_an_engine, engine, engine_in, failed, live, ready, render_with_samples, rendered,
    stopped,
};
use latentfarm_common::wire::engine::{EngineFailure, EngineReply, EngineStage};
use latentfarm_common::wire::memory::{MemoryPlan, MemorySample, MemoryStage};
use latentfarm_engine::Engine;
use latentfarm_engine::memory::counting::{CountingAllocator, take_peak};
use latentfarm_engine::memory::device::HostMemory;
use latentsync::cost::prediction::CUDA_CONTEXT;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: CountingAllocator<MiMalloc> = CountingAllocator(MiMalloc);

const STAGES: [(&str, MemoryStage); 3] = [
    ("vae-encode", MemoryStage::VaeEncode),
    ("denoise", MemoryStage::Denoise),
    ("vae-decode", MemoryStage::VaeDecode),
];

/// Renders two windows, which allocate what a process keeps for good, such as thread pools and plans of
/// transforms. Returns the faces of the first.
fn warmed(engine: &mut Engine, weights: &Weights) -> Vec<u8> {
    ready(engine, weights);
    let faces = rendered(engine, weights.window(2, 1.5, MemoryPlan::default()));
    drop(rendered(engine, weights.window(2, 1.5, MemoryPlan::default())));
    faces
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Renders so many windows and asserts that the memory is the same after the last one as after the first.
fn assert_windows_leave_nothing(windows: usize) {
    let weights = Weights::tiny(1);
    let mut engine = engine(None, "cpu", &[]);
    ready(&mut engine, &weights);
    let request = weights.window(1, 1.0, MemoryPlan::default());
    let (mut first, mut held) = (0, Vec::with_capacity(windows));
    for window in 1..=windows {
        let reply = answer(&mut engine, request.clone());
        assert!(matches!(reply, EngineReply::Window { .. }), "{reply:?}");
        held.push(resident_kib());
        drop(reply);
        if window == 1 {
            first = live();
        }
    }
    assert_eq!(
        live(),
        first,
        "live bytes after the last window and after the first"
    );
    // What the allocator keeps settles within seconds, and varies from window to window afterwards.
    let median = |held: &[u64]| {
        let mut sorted = held.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let tenth = windows / 10;
    let (early, late) = (median(&held[tenth..2 * tenth]), median(&held[windows - tenth..]));
    println!(
        "resident KiB: {} after the first of {windows} windows, {early} over the second tenth, {late} over the last",
        held[0]
    );
    assert!(early.max(late) * 100 <= early.min(late) * 105);
}

#[test]
fn two_thousand_frames_leave_not_a_byte_behind() {
    as_an_engine("two_thousand_frames_leave_not_a_byte_behind", || {
        assert_windows_leave_nothing(125);
    });
}

#[test]
#[ignore = "takes 4 minutes: cargo t --run-ignored only -E 'test(a_thousand_windows)'"]
fn a_thousand_windows_leave_not_a_byte_behind() {
    as_an_engine("a_thousand_windows_leave_not_a_byte_behind", || {
        assert_windows_leave_nothing(1000);
    });
}

#[test]
fn a_plan_that_keeps_weights_off_the_device_never_loads_them_onto_it() {
    as_an_engine(
        "a_plan_that_keeps_weights_off_the_device_never_loads_them_onto_it",
        || {
            // In a half type the CPU computes with copies of the mapped weights, which are counted.
            let weights = Weights::tiny(6);
            let loaded = |plan| {
                let mut engine = engine_in(DType::BF16, None, "cpu", &[]);
                let before = live();
                take_peak();
                let reply = answer(&mut engine, weights.load_under(plan));
                assert!(matches!(reply, EngineReply::Loaded { .. }), "{reply:?}");
                drop(reply);
                (live() - before, take_peak() - before)
            };
            loaded(MemoryPlan::BatchedGuidance);
            let (held, _) = loaded(MemoryPlan::BatchedGuidance);
            for plan in [MemoryPlan::Offload, MemoryPlan::Streamed] {
                let (kept, peak) = loaded(plan);
                println!("{plan}: {kept} bytes, at most {peak}, of {held} under batched");
                assert!(kept * 4 < held && peak * 2 < held, "{plan}");
            }
        },
    );
}

#[test]
fn errors_panics_and_shortages_at_every_stage_of_a_window_leave_not_a_byte_behind() {
    as_an_engine(
        "errors_panics_and_shortages_at_every_stage_of_a_window_leave_not_a_byte_behind",
        || {
            let weights = Weights::tiny(2);
            let kinds = ["error", "panic", "oom"];
            let mut faults = Vec::new();
            for (stage, _) in STAGES {
                for kind in kinds {
                    // Windows 1 and 2 warm up; each fault comes twice, so that what its first time keeps for
                    // good is there.
                    let nth = 3 + 3 * (faults.len() / 2);
                    faults.push(format!("{kind}@{stage}#{nth}"));
                    faults.push(format!("{kind}@{stage}#{}", nth + 1));
                }
            }
            let texts: Vec<&str> = faults.iter().map(String::as_str).collect();
            let mut engine = engine(None, "cpu", &texts);
            let expected = warmed(&mut engine, &weights);
            let window = || weights.window(2, 1.5, MemoryPlan::default());
            for (stage, named) in STAGES {
                for kind in kinds {
                    drop(failed(&mut engine, window()));
                    let before = live();
                    let failure = failed(&mut engine, window());
                    match (kind, &failure) {
                        (
                            "oom",
                            EngineFailure::OutOfMemory {
                                stage,
                                needed_at_least_mib,
                                ..
                            },
                        ) => {
                            assert_eq!((*stage, needed_at_least_mib.is_some()), (named, true));
                        }
                        ("error" | "panic", EngineFailure::Other { message }) => {
                            assert!(
                                message.contains("injected") && message.contains(kind),
                                "{message}"
                            );
                        }
                        _ => panic!("{kind}@{stage}: {failure:?}"),
                    }
                    drop(failure);
                    assert_eq!(live(), before, "{kind}@{stage}");
                    assert_eq!(rendered(&mut engine, window()), expected, "after {kind}@{stage}");
                    assert_eq!(live(), before, "the window after {kind}@{stage}");
                }
            }
        },
    );
}

#[test]
fn a_window_that_is_stopped_anywhere_leaves_not_a_byte_behind() {
    as_an_engine(
        "a_window_that_is_stopped_anywhere_leaves_not_a_byte_behind",
        || {
            let weights = Weights::tiny(3);
            let mut engine = engine(None, "cpu", &[]);
            let expected = warmed(&mut engine, &weights);
            let window = || weights.window(2, 1.5, MemoryPlan::default());
            let before = live();
            for at in [
                EngineStage::VaeEncode { frame: 0 },
                EngineStage::VaeEncode { frame: 15 },
                EngineStage::Denoise { step: 1, of: 2 },
                EngineStage::Denoise { step: 2, of: 2 },
                EngineStage::VaeDecode { frame: 7 },
            ] {
                drop(stopped(&mut engine, window(), at));
                assert_eq!(live(), before, "stopped at {at:?}");
            }
            assert_eq!(rendered(&mut engine, window()), expected);
            assert_eq!(live(), before);
        },
    );
}

#[test]
fn failed_speech_and_failed_loading_leave_not_a_byte_behind() {
    as_an_engine("failed_speech_and_failed_loading_leave_not_a_byte_behind", || {
        let (weights, others) = (Weights::tiny(4), Weights::tiny(5));
        let faults = [
            "error@load#3",
            "panic@load#5",
            "oom@load#7",
            "error@load#9",
            "panic@load#11",
            "oom@load#13",
            "error@audio#3",
            "panic@audio#4",
            "oom@audio#5",
            "error@audio#6",
            "panic@audio#7",
            "oom@audio#8",
        ];
        let mut engine = engine(None, "cpu", &faults);
        let expected = warmed(&mut engine, &weights);
        // Audio 1 was the track's; the second warms up what another track keeps for good.
        drop(answer(&mut engine, Weights::audio("another")));
        // The first failure of each kind allocates what its report keeps.
        for _ in 0..3 {
            drop(failed(&mut engine, Weights::audio("a third")));
        }
        let before = live();
        for kind in ["error", "panic", "oom"] {
            drop(failed(&mut engine, Weights::audio("a third")));
            assert_eq!(live(), before, "{kind}@audio");
        }
        assert_eq!(
            rendered(&mut engine, weights.window(2, 1.5, MemoryPlan::default())),
            expected
        );
        // With nothing loaded the engine holds the same whatever took the model away.
        // The list itself must not grow between two readings.
        let mut empty = Vec::with_capacity(6);
        for kind in ["error", "panic", "oom", "error", "panic", "oom"] {
            drop(answer(&mut engine, others.load()));
            let failure = failed(&mut engine, weights.load());
            assert_eq!(
                matches!(failure, EngineFailure::OutOfMemory { .. }),
                kind == "oom",
                "{failure:?}"
            );
            drop(failure);
            empty.push(live());
        }
        // As above: the first panic in the loading code resolves the symbols of its backtrace, which the process keeps.
        assert_eq!(empty[3..], [empty[2]; 3], "live bytes after each failed loading");
        assert!(empty[0] < before);
        ready(&mut engine, &weights);
        assert_eq!(
            rendered(&mut engine, weights.window(2, 1.5, MemoryPlan::default())),
            expected
        );
    });
}

#[test]
fn a_shortage_names_stage_and_need_and_the_engine_goes_on_under_a_larger_budget() {
    as_an_engine(
        "a_shortage_names_stage_and_need_and_the_engine_goes_on_under_a_larger_budget",
        || {
            let weights = Weights::tiny(6);
            let mut plain = engine(None, "cpu", &["oom@denoise#3"]);
            let expected = warmed(&mut plain, &weights);
            drop(failed(&mut plain, weights.window(1, 1.0, MemoryPlan::default())));
            drop(plain);
            for stage in [MemoryStage::Load, MemoryStage::Audio]
                .into_iter()
                .chain(STAGES.map(|(_, stage)| stage))
            {
                let armed = Rc::new(Cell::new(false));
                // This is less than is in use in any stage.
                let budget = live() + (1 << 16);
                let memory = StageBudget {
                    unbounded: HostMemory::new(None),
                    budgeted: HostMemory::new(Some(budget)),
                    stage,
                    current: MemoryStage::Idle,
                    armed: Rc::clone(&armed),
                };
                let mut engine = engine(Some(Box::new(memory)), "cpu", &[]);
                if stage != MemoryStage::Load {
                    drop(answer(&mut engine, weights.load()));
                }
                if stage != MemoryStage::Load && stage != MemoryStage::Audio {
                    drop(answer(&mut engine, Weights::audio("track")));
                }
                armed.set(true);
                let request = match stage {
                    MemoryStage::Load => weights.load(),
                    MemoryStage::Audio => Weights::audio("track"),
                    _ => weights.window(2, 1.5, MemoryPlan::default()),
                };
                let before = live();
                let failure = failed(&mut engine, request);
                let EngineFailure::OutOfMemory {
                    stage: reported,
                    needed_at_least_mib,
                    free_before_mib,
                } = failure
                else {
                    panic!("{stage}: {failure:?}")
                };
                println!("{stage}: {needed_at_least_mib:?} MiB needed, {free_before_mib} free before");
                assert_eq!(reported, stage);
                assert!(needed_at_least_mib.unwrap() > budget >> 20 && free_before_mib > 0);
                assert!(
                    live() <= before + (64 << 10),
                    "{stage}: {} bytes more",
                    live() - before
                );
                armed.set(false);
                ready(&mut engine, &weights);
                assert_eq!(
                    rendered(&mut engine, weights.window(2, 1.5, MemoryPlan::default())),
                    expected,
                    "{stage}"
                );
                assert_eq!(
                    rendered(&mut engine, weights.window(2, 1.5, MemoryPlan::LEANEST)),
                    expected,
                    "{stage}"
                );
            }
        },
    );
}

#[test]
fn guidance_is_switched_from_window_to_window_and_its_peaks_are_reported() {
    as_an_engine(
        "guidance_is_switched_from_window_to_window_and_its_peaks_are_reported",
        || {
            let weights = Weights::tiny(7);
            let mut engine = engine(None, "cpu", &[]);
            ready(&mut engine, &weights);
            let mut render =
                |scale| render_with_samples(&mut engine, weights.window(2, scale, MemoryPlan::default()));
            let (off, off_samples) = render(1.0);
            let (on, on_samples) = render(1.5);
            let (again, _) = render(1.0);
            assert_eq!(off, again);
            assert_ne!(off, on);
            let peak = |samples: &[(EngineStage, MemorySample)]| {
                let denoise = samples
                    .iter()
                    .filter(|(stage, _)| stage.memory_stage() == MemoryStage::Denoise);
                denoise
                    .map(|(_, sample)| sample.live_peak - sample.live)
                    .max()
                    .unwrap()
            };
            println!(
                "denoising on top of what stays: {} bytes off, {} on",
                peak(&off_samples),
                peak(&on_samples)
            );
            assert!(peak(&off_samples) > 0);
            // The prediction without audio is kept while that with audio is computed.
            assert!(peak(&on_samples) > peak(&off_samples));
            let stages = |stage| {
                off_samples
                    .iter()
                    .filter(|(at, _)| at.memory_stage() == stage)
                    .count()
            };
            assert_eq!(
                [
                    MemoryStage::VaeEncode,
                    MemoryStage::Denoise,
                    MemoryStage::VaeDecode
                ]
                .map(stages),
                [16, 2, 16]
            );
            assert!(
                on_samples
                    .iter()
                    .all(|(_, sample)| sample.live_peak >= sample.live && sample.live > 0)
            );
        },
    );
}

#[test]
fn another_tenant_in_the_middle_of_a_window_is_a_typed_shortage_and_gone_when_it_leaves() {
    as_an_engine(
        "another_tenant_in_the_middle_of_a_window_is_a_typed_shortage_and_gone_when_it_leaves",
        || {
            let weights = Weights::tiny(8);
            let mut plain = engine(None, "cpu", &[]);
            let expected = warmed(&mut plain, &weights);
            let dir = tempfile::tempdir().unwrap();
            let card = dir.path().join("card");
            let write = |text: &str| std::fs::write(&card, text).unwrap();
            write("total_mib = 8192\n");
            let mut engine = engine(None, &format!("sim:{}", card.display()), &[]);
            ready(&mut engine, &weights);
            let window = || weights.window(2, 1.5, MemoryPlan::default());
            let (faces, samples) = render_with_samples(&mut engine, window());
            assert_eq!(faces, expected);
            let peaks = |stage| {
                let of = samples.iter().filter(|(at, _)| at.memory_stage() == stage);
                of.map(|(_, sample)| sample.live_peak).max().unwrap()
            };
            assert!(peaks(MemoryStage::Denoise) > 0 && peaks(MemoryStage::Denoise) < 8192 << 20);
            let reply = engine.answer(window(), &mut |stage, _| {
                if stage == (EngineStage::Denoise { step: 1, of: 2 }) {
                    write("total_mib = 8192\ntenant_mib = 8192\n");
                }
                Ok(())
            });
            let EngineReply::Failed(EngineFailure::OutOfMemory {
                stage,
                needed_at_least_mib,
                free_before_mib,
            }) = reply
            else {
                panic!("{reply:?}")
            };
            assert_eq!(stage, MemoryStage::Denoise);
            assert_eq!(
                needed_at_least_mib,
                Some((CUDA_CONTEXT + peaks(MemoryStage::Denoise)).div_ceil(1 << 20))
            );
            assert!(free_before_mib > 8000, "{free_before_mib}");
            write("total_mib = 8192\n");
            assert_eq!(rendered(&mut engine, window()), expected);
            // On this device everything costs half as much again as predicted.
            write("total_mib = 8192\ncost_percent = 150\n");
            let (_, dear) = render_with_samples(&mut engine, window());
            let dear = dear.iter().map(|(_, sample)| sample.live_peak).max().unwrap();
            let usual = samples.iter().map(|(_, sample)| sample.live_peak).max().unwrap();
            assert!(dear.abs_diff(usual * 3 / 2) <= 2, "{dear} of {usual}");
        },
    );
}
