//! Tests that a request which ran out of memory can be sent again under a leaner plan: it computes the same, and its memory
//! is that of the leaner plan alone.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests are tests too, and other tests use more of them"
)]

mod harness;

use harness::{Weights, answer, engine, failed, rendered};
use latentfarm_common::wire::engine::{EngineFailure, EngineReply, EngineRequest};
use latentfarm_common::wire::memory::{MemoryPlan, MemoryStage};
use latentfarm_engine::Engine;
use latentfarm_engine::memory::counting::CountingAllocator;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: CountingAllocator<MiMalloc> = CountingAllocator(MiMalloc);

const LEAN: MemoryPlan = MemoryPlan::Streamed;

/// Loads, encodes audio and renders a window under `plan`; returns the faces and the highest peak of each request.
fn task(engine: &mut Engine, weights: &Weights, plan: MemoryPlan) -> (Vec<u8>, [u64; 3]) {
    let mut peaks = [0; 3];
    let requests = [
        weights.load_under(plan),
        Weights::audio("track"),
        weights.window(1, 1.5, plan),
    ];
    let mut faces = Vec::new();
    for (request, peak) in requests.into_iter().zip(&mut peaks) {
        let reply = engine.answer(request, &mut |_, sample| {
            *peak = (*peak).max(sample.live_peak);
            Ok(())
        });
        match reply {
            EngineReply::Loaded { memory, .. } | EngineReply::AudioReady { memory, .. } => {
                *peak = (*peak).max(memory.live_peak);
            }
            EngineReply::Window {
                faces: done, memory, ..
            } => {
                *peak = (*peak).max(memory.live_peak);
                faces = done;
            }
            other => panic!("{other:?}"),
        }
    }
    (faces, peaks)
}

#[test]
fn a_request_that_ran_out_in_any_stage_succeeds_under_a_leaner_plan_and_takes_what_that_plan_takes() {
    let dir = tempfile::tempdir().unwrap();
    let card = dir.path().join("card");
    std::fs::write(&card, "total_mib = 8192\n").unwrap();
    let device = format!("sim:{}", card.display());
    let weights = Weights::tiny(11);
    let (expected, lean) = task(&mut engine(None, &device, &[]), &weights, LEAN);
    let (_, usual) = task(&mut engine(None, &device, &[]), &weights, MemoryPlan::default());
    assert!(
        usual[0] > lean[0] && usual[2] > lean[2],
        "{usual:?} and {lean:?} bytes"
    );
    for (fault, stage) in [
        ("oom@load#1", MemoryStage::Load),
        ("oom@audio#1", MemoryStage::Audio),
        ("oom@vae-encode#1", MemoryStage::VaeEncode),
        ("oom@denoise#1", MemoryStage::Denoise),
        ("oom@vae-decode#1", MemoryStage::VaeDecode),
    ] {
        let mut engine = engine(None, &device, &[fault]);
        let plan = MemoryPlan::default();
        let requests: [EngineRequest; 3] = [
            weights.load_under(plan),
            Weights::audio("track"),
            weights.window(1, 1.5, plan),
        ];
        let failing = match stage {
            MemoryStage::Load => 0,
            MemoryStage::Audio => 1,
            _ => 2,
        };
        for request in &requests[..failing] {
            let reply = answer(&mut engine, request.clone());
            assert!(!matches!(reply, EngineReply::Failed(_)), "{fault}: {reply:?}");
        }
        let failure = failed(&mut engine, requests[failing].clone());
        assert!(
            matches!(failure, EngineFailure::OutOfMemory { stage: at, .. } if at == stage),
            "{fault}: {failure:?}"
        );
        // The supervisor sends the request to load again first, and then the one that failed.
        let (faces, peaks) = task(&mut engine, &weights, LEAN);
        assert!(faces == expected, "{fault}");
        // Weights that are loaded and speech that is encoded take nothing a second time.
        assert!(
            peaks[0] <= lean[0] && peaks[1] <= lean[1],
            "{fault}: {peaks:?} and {lean:?}"
        );
        assert_eq!(peaks[2], lean[2], "{fault}");
        // On the CPU the plan before gives the same bits, too.
        assert!(
            rendered(&mut engine, weights.window(1, 1.5, plan)) == expected,
            "{fault}"
        );
    }
}
