//! The sampler against the reference: tables, timesteps, and runs with given noise.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use candle_core::{Device, Tensor};
use latentfarm_worker::latentsync::ddim::DdimScheduler;
use support::{Golden, Tolerance, assert_close};

#[test]
fn tables_match_golden() {
    let golden = Golden::named("ddim.safetensors");
    let scheduler = DdimScheduler::new();
    let tolerance = Tolerance {
        max_abs: 1e-6,
        relative: 1e-6,
    };
    for (name, table) in [
        ("betas", scheduler.betas()),
        ("alphas_cumprod", scheduler.alphas_cumprod()),
    ] {
        let ours = Tensor::new(table, &Device::Cpu).unwrap();
        assert_close(name, &ours, golden.get(name), tolerance);
    }
    let first = Tensor::new(&scheduler.alphas_cumprod()[..1], &Device::Cpu).unwrap();
    assert_close(
        "final_alpha_cumprod",
        &first,
        golden.get("final_alpha_cumprod"),
        tolerance,
    );
}

#[test]
fn timesteps_match_golden_exactly() {
    let golden = Golden::named("ddim.safetensors");
    let runs = golden.under("timesteps.n");
    assert!(!runs.is_empty());
    for steps in runs {
        let ours: Vec<i64> = DdimScheduler::timesteps(steps.parse().unwrap())
            .into_iter()
            .map(i64::from)
            .collect();
        assert_eq!(
            ours,
            golden.integers(&format!("timesteps.n{steps}")),
            "{steps} steps"
        );
    }
}

#[test]
fn runs_match_golden_step_by_step() {
    let golden = Golden::named("ddim.safetensors");
    let scheduler = DdimScheduler::new();
    let tolerance = Tolerance {
        max_abs: 1e-4,
        relative: 1e-5,
    };
    for run in golden.prefixes("run") {
        let get = |name: &str| golden.get(&format!("{run}.{name}"));
        let steps: u32 = run.strip_prefix("run").unwrap().parse().unwrap();
        let mut x = get("x").get(0).unwrap();
        for (i, timestep) in DdimScheduler::timesteps(steps).into_iter().enumerate() {
            let (next, clean) = scheduler
                .step(&get("eps").get(i).unwrap(), timestep, &x, steps)
                .unwrap();
            assert_close(
                &format!("{run} x0 {i}"),
                &clean,
                &get("pred_x0").get(i).unwrap(),
                tolerance,
            );
            assert_close(
                &format!("{run} x {i}"),
                &next,
                &get("x").get(i + 1).unwrap(),
                tolerance,
            );
            x = next;
        }
    }
}

#[test]
fn every_number_of_steps_has_timesteps_within_the_schedule() {
    for steps in 1..=1000 {
        let timesteps = DdimScheduler::timesteps(steps);
        assert_eq!(timesteps.len(), steps as usize);
        assert!(
            timesteps.iter().all(|&t| t < 1000) && timesteps.is_sorted_by(|a, b| a >= b),
            "{steps}"
        );
    }
}
