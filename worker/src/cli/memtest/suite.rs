//! The checks, in the order in which they run.

use anyhow::Context as _;
use latentfarm_common::time::WINDOW_FRAMES;
use latentfarm_common::wire::engine::{EngineReply, EngineStage};
use latentfarm_common::wire::memory::MemorySample;

use super::inputs::{self, GUIDED, UNGUIDED};
use super::plan::Plan;
use super::process::{Answer, Engine, told};
use super::report::{Check, Cost, Report};
use crate::supervise::drift::{Drift, Verdict};

const MIB: f64 = 1_048_576.0;
/// What a thread pool's own bookkeeping comes and goes by.
const BOOKKEEPING: u64 = 64 << 10;

/// Runs all checks.
///
/// # Errors
/// Where no engine comes so far that there is something to check.
pub(super) fn run(plan: &Plan) -> anyhow::Result<Report> {
    let mut engine = Engine::start(plan, &plan.args.engine_arg)?;
    tracing::info!("loading the model on {}", plan.args.device);
    let loaded = engine.ask(&inputs::load(plan))?;
    let mut samples = vec![loaded.ready().context("the model cannot be loaded here")?];
    samples.push(engine.ask(&inputs::audio())?.ready()?);
    tracing::info!("windows without, with and without guidance");
    let mut render = |guidance| engine.ask(&inputs::window(plan, plan.args.steps, guidance));
    let off = render(UNGUIDED)?;
    off.window().context("no window can be rendered here")?;
    let on = render(GUIDED)?;
    let again = render(UNGUIDED)?;
    let windows = [&off, &on, &again];
    let mut checks = vec![
        monitoring(plan, &samples, &windows)?,
        guidance(&off, &on, &again)?,
        frames(plan, &windows),
        steps(&windows),
        after_windows(&windows)?,
        errors(plan, &off)?,
    ];
    let (leaks, baselines) = leaks(plan, &mut engine)?;
    checks.push(leaks);
    let (numerics_fingerprint, device) = match loaded.reply {
        EngineReply::Loaded {
            numerics_fingerprint,
            device,
            ..
        } => (numerics_fingerprint, device),
        _ => (String::new(), plan.args.device.clone()),
    };
    Ok(Report {
        device,
        numerics_fingerprint,
        synthetic: plan.checkpoint.synthetic(),
        checks,
        guidance_off: cost(&again)?,
        guidance_on: cost(&on)?,
        baselines,
    })
}

/// Every stage tells what it uses, in figures that can be.
fn monitoring(plan: &Plan, others: &[MemorySample], windows: &[&Answer]) -> anyhow::Result<Check> {
    let mut samples = others.to_vec();
    for window in windows {
        samples.extend(window.progress.iter().map(|(_, sample)| *sample));
        samples.push(window.window()?.1);
    }
    let possible = |sample: &&MemorySample| {
        sample.total > 0
            && sample.free <= sample.total
            && sample.own > 0
            && sample.own <= sample.total
            && sample.live > 0
            && sample.live_peak >= sample.live
            && sample.host_rss > 0
    };
    let impossible = samples.iter().filter(|sample| !possible(sample)).count();
    let expected = 2 * WINDOW_FRAMES + u64::from(plan.args.steps);
    let told = windows
        .iter()
        .all(|window| window.progress.len() as u64 == expected);
    let last = samples.last().copied().unwrap_or_default();
    Ok(Check {
        name: "monitoring",
        passed: impossible == 0 && told,
        figures: format!(
            "{} samples, {impossible} of them impossible; {} of {} stages told; {:.0} MiB held, {:.0} free of {:.0}",
            samples.len(),
            windows.last().map_or(0, |window| window.progress.len()),
            expected,
            last.own as f64 / MIB,
            last.free as f64 / MIB,
            last.total as f64 / MIB,
        ),
    })
}

/// The switch acts at once, both ways, and costs what it costs.
fn guidance(off: &Answer, on: &Answer, again: &Answer) -> anyhow::Result<Check> {
    let same = off.window()?.0 == again.window()?.0;
    let differs = off.window()?.0 != on.window()?.0;
    let (cheap, dear) = (cost(again)?, cost(on)?);
    Ok(Check {
        name: "guidance off, on, off",
        passed: same && differs,
        figures: format!(
            "no reload; {} the first picture again; on takes {:.2} times the time and {:+.1} MiB at the peak",
            if same { "off gives" } else { "off does NOT give" },
            dear.seconds / cheap.seconds.max(f64::MIN_POSITIVE),
            (dear.peak as f64 - cheap.peak as f64) / MIB,
        ),
    })
}

/// A frame leaves no more behind than its result.
fn frames(plan: &Plan, windows: &[&Answer]) -> Check {
    let side = u64::from(plan.checkpoint.resolution_px());
    // A face in f32; its latents are smaller.
    let allowed = 3 * side * side * 4 + BOOKKEEPING;
    let is_encode = |stage: &EngineStage| matches!(stage, EngineStage::VaeEncode { .. });
    let is_decode = |stage: &EngineStage| matches!(stage, EngineStage::VaeDecode { .. });
    let growth = windows
        .iter()
        .flat_map(|window| {
            [lives(window, is_encode), lives(window, is_decode)]
                .into_iter()
                .flat_map(|lives| rises(&lives))
        })
        .max()
        .unwrap_or(0);
    Check {
        name: "clean after frames",
        passed: growth <= allowed,
        figures: format!(
            "at most {} KiB more after a frame, {} KiB are its result's",
            growth >> 10,
            allowed >> 10
        ),
    }
}

/// A step leaves nothing behind.
fn steps(windows: &[&Answer]) -> Check {
    let is_step = |stage: &EngineStage| matches!(stage, EngineStage::Denoise { .. });
    let rises = windows.iter().flat_map(|window| rises(&lives(window, is_step)));
    let growth = rises.max().unwrap_or(0);
    Check {
        name: "clean after steps",
        passed: growth <= BOOKKEEPING,
        figures: format!("at most {growth} bytes more after a step"),
    }
}

fn after_windows(windows: &[&Answer]) -> anyhow::Result<Check> {
    let lives: Vec<u64> = windows
        .iter()
        .map(|window| Ok(window.window()?.1.live))
        .collect::<anyhow::Result<_>>()?;
    let spread = lives.iter().max().unwrap_or(&0) - lives.iter().min().unwrap_or(&0);
    Ok(Check {
        name: "clean after windows",
        passed: spread <= BOOKKEEPING,
        figures: format!(
            "{:.1} MiB in use after each, {spread} bytes between them",
            lives.first().copied().unwrap_or(0) as f64 / MIB
        ),
    })
}

/// A second engine that fails on purpose gets its memory back each time, and goes on.
fn errors(plan: &Plan, expected: &Answer) -> anyhow::Result<Check> {
    tracing::info!("an engine that fails on purpose");
    let mut faults = vec!["error@denoise#2", "oom@vae-decode#3"];
    if !plan.args.device.starts_with("cuda") {
        // There a panic is the engine's end.
        faults.push("panic@vae-encode#4");
    }
    let args: Vec<String> = faults
        .iter()
        .flat_map(|fault| ["--fault".to_owned(), (*fault).to_owned()])
        .collect();
    let mut engine = Engine::start(plan, &args)?;
    engine.ask(&inputs::load(plan))?.ready()?;
    engine.ask(&inputs::audio())?.ready()?;
    let window = inputs::window(plan, plan.args.steps, UNGUIDED);
    let before = engine.ask(&window)?.window()?.1.live;
    let mut wrong = Vec::new();
    for fault in &faults {
        match engine.ask(&window)?.reply {
            EngineReply::Failed(_) => {}
            other => wrong.push(format!("{fault} gave {}", told(&other))),
        }
    }
    let after = engine.ask(&window)?;
    let (faces, sample) = after.window()?;
    if faces != expected.window()?.0 {
        wrong.push("the window after them is another".to_owned());
    }
    let growth = sample.live.abs_diff(before);
    if growth > BOOKKEEPING {
        wrong.push("memory did not come back".to_owned());
    }
    Ok(Check {
        name: "clean after errors",
        passed: wrong.is_empty(),
        figures: format!(
            "{}: {growth} bytes of difference {}",
            faults.join(", "),
            wrong.join("; ")
        ),
    })
}

/// Window after window, for the leak detector.
fn leaks(plan: &Plan, engine: &mut Engine) -> anyhow::Result<(Check, Vec<(u64, u64)>)> {
    tracing::info!("{} windows in search of leaks", plan.args.windows);
    let window = inputs::window(plan, 1, UNGUIDED);
    let (mut drift, mut called, mut baselines) = (Drift::default(), None, Vec::new());
    for count in 1..=plan.args.windows {
        let sample = engine.ask(&window)?.window()?.1;
        baselines.push((sample.live, sample.own));
        if let Verdict::Leaking(leak) = drift.push(&sample) {
            called = Some(format!("{leak}, called after window {count}"));
            break;
        }
        if count % plan.args.windows.div_ceil(10) == 0 {
            tracing::info!(
                "window {count} of {}: {:.1} MiB in use, {:.0} held",
                plan.args.windows,
                sample.live as f64 / MIB,
                sample.own as f64 / MIB
            );
        }
    }
    let (first, last) = (baselines.first(), baselines.last());
    let steady = first.zip(last).map_or(String::new(), |(first, last)| {
        format!(
            "{} windows: in use {:+} bytes, held {:+.1} MiB from first to last",
            baselines.len(),
            i128::from(last.0) - i128::from(first.0),
            (last.1 as f64 - first.1 as f64) / MIB,
        )
    });
    let check = Check {
        name: "no leak",
        passed: called.is_none(),
        figures: called.unwrap_or(steady),
    };
    Ok((check, baselines))
}

/// Bytes in use after each frame or step of a kind.
fn lives(answer: &Answer, of: impl Fn(&EngineStage) -> bool) -> Vec<u64> {
    let told = answer.progress.iter().filter(|(stage, _)| of(stage));
    told.map(|(_, sample)| sample.live).collect()
}

/// What each is above the one before.
fn rises(lives: &[u64]) -> Vec<u64> {
    lives
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .collect()
}

fn cost(answer: &Answer) -> anyhow::Result<Cost> {
    let (_, last) = answer.window()?;
    let peaks = answer.progress.iter().map(|(_, sample)| sample.live_peak);
    Ok(Cost {
        seconds: answer.seconds,
        peak: peaks.chain([last.live_peak]).max().unwrap_or(0),
    })
}
