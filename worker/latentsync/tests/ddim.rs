//! Compares the sampler with the reference: its tables, its timesteps, and runs with given noise.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use latentsync::ddim::{DdimScheduler, DdimSchedulerOutput};
use support::{Compared, Golden, Tolerance, assert_close, assert_values_close, files, number_after};

const TABLES: Tolerance = Tolerance {
    max_abs: 1e-6,
    relative: 1e-6,
};

fn goldens() -> Vec<Golden> {
    let found = files("ddim", ".safetensors").into_iter();
    found.map(|path| Golden::open(&path)).collect()
}

#[test]
fn tables_match_golden() {
    let mut compared = Compared::default();
    for golden in goldens() {
        let scheduler = DdimScheduler::new();
        for (name, ours) in [
            ("betas", scheduler.betas()),
            ("alphas_cumprod", scheduler.alphas_cumprod()),
            ("final_alpha_cumprod", &scheduler.alphas_cumprod()[..1]),
            // The starting noise is not scaled.
            ("init_noise_sigma", &[1.0]),
        ] {
            if golden.find(name).is_some() {
                assert_values_close(name, ours, &golden.floats(name), TABLES);
                compared.add(name);
            }
        }
    }
    compared.require(&["betas", "alphas_cumprod", "final_alpha_cumprod"]);
}

#[test]
fn timesteps_match_golden_exactly() {
    let mut compared = Compared::default();
    for golden in goldens() {
        for steps in golden.under("timesteps.n") {
            let ours: Vec<i64> = DdimScheduler::timesteps(steps.parse().unwrap())
                .into_iter()
                .map(i64::from)
                .collect();
            assert_eq!(
                ours,
                golden.integers(&format!("timesteps.n{steps}")),
                "{steps} steps"
            );
            compared.add("timesteps");
        }
    }
    compared.require(&["timesteps"]);
}

#[test]
fn runs_match_golden_step_by_step() {
    let tolerance = Tolerance {
        max_abs: 1e-4,
        relative: 1e-5,
    };
    let mut compared = Compared::default();
    for golden in goldens() {
        let scheduler = DdimScheduler::new();
        for run in golden.before(".eps") {
            let get = |name: &str| golden.get(&format!("{run}.{name}"));
            let given = get("eps").dim(0).unwrap();
            let steps = match number_after("run", &run) {
                0 => u32::try_from(given).unwrap(),
                steps => u32::try_from(steps).unwrap(),
            };
            let mut x = get("x").get(0).unwrap();
            for (i, timestep) in DdimScheduler::timesteps(steps)
                .into_iter()
                .enumerate()
                .take(given)
            {
                let eps = get("eps").get(i).unwrap();
                let DdimSchedulerOutput {
                    prev_sample,
                    pred_original_sample,
                } = scheduler.step(&eps, timestep, &x, steps).unwrap();
                let part = |name: &str, at: usize| {
                    let whole = golden.find(&format!("{run}.{name}"))?;
                    Some(whole.get(at).unwrap())
                };
                if let Some(expected) = part("pred_x0", i) {
                    assert_close(
                        &format!("{run} x0 {i}"),
                        &pred_original_sample,
                        &expected,
                        tolerance,
                    );
                    compared.add("clean estimates");
                }
                let expected = part("x", i + 1).unwrap();
                assert_close(&format!("{run} x {i}"), &prev_sample, &expected, tolerance);
                compared.add("steps");
                x = prev_sample;
            }
        }
    }
    compared.require(&["steps", "clean estimates"]);
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
