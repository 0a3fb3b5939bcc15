//! The checks of `memtest`, in the order in which they run.

use anyhow::Context as _;
use latentfarm_common::time::WINDOW_FRAMES;
use latentfarm_common::wire::engine::{EngineReply, EngineStage};
use latentfarm_common::wire::memory::MemorySample;

use super::engine_under_test::{EngineUnderTest, TimedReply, describe};
use super::report::{Check, GuidanceCost, MemtestReport, WindowCost};
use super::requests::{self, GUIDED, UNGUIDED};
use super::setup::Setup;
use crate::cli::one_device::DeviceEngine;
use crate::supervise::leak_detector::LeakDetector;

const MIB: f64 = 1_048_576.0;
/// Bytes by which the bookkeeping of thread pools may make memory in use vary.
const BOOKKEEPING_BYTES: u64 = 64 << 10;

/// Runs all checks and returns their results.
///
/// # Errors
/// If the model cannot be loaded or render a window here, or an engine ends or hangs: there is then no
/// verdict.
pub(super) async fn run(setup: &Setup, device: &DeviceEngine) -> anyhow::Result<MemtestReport> {
    let mut engine = EngineUnderTest::start(setup, device, &setup.args.engine_arg)?;
    tracing::info!(device = device.device, "loading the model");
    let loaded = engine.request(&requests::load(setup)).await?;
    let mut samples = vec![loaded.ready().context("the model cannot be loaded here")?];
    samples.push(engine.request(&requests::audio()).await?.ready()?);
    tracing::info!("rendering windows without, with and again without guidance");
    let mut render = async |guidance| {
        let window = requests::window(setup, setup.args.steps, guidance);
        engine.request(&window).await
    };
    let off = render(UNGUIDED).await?;
    off.window().context("no window can be rendered here")?;
    let on = render(GUIDED).await?;
    let again = render(UNGUIDED).await?;
    let windows = [&off, &on, &again];
    let mut checks = vec![
        monitoring(setup, &samples, &windows)?,
        guidance(&off, &on, &again)?,
        frames(setup, &windows),
        steps(&windows),
        after_windows(&windows)?,
        errors(setup, device, &off).await?,
    ];
    let (leaks, baselines) = leaks(setup, &mut engine).await?;
    checks.push(leaks);
    let (numerics_fingerprint, device) = match loaded.reply {
        EngineReply::Loaded {
            numerics_fingerprint,
            device,
            ..
        } => (numerics_fingerprint, device),
        _ => (String::new(), device.device.clone()),
    };
    Ok(MemtestReport {
        device,
        numerics_fingerprint,
        weights_kind: setup.checkpoint.kind(),
        passed: checks.iter().all(|check| check.passed),
        checks,
        guidance: GuidanceCost {
            off: window_cost(&again)?,
            on: window_cost(&on)?,
        },
        baselines,
    })
}

/// Checks that every stage reports a memory sample, and that the figures of each sample are possible
/// together.
fn monitoring(setup: &Setup, others: &[MemorySample], windows: &[&TimedReply]) -> anyhow::Result<Check> {
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
    let expected = 2 * WINDOW_FRAMES + u64::from(setup.args.steps);
    let complete = windows
        .iter()
        .all(|window| window.progress.len() as u64 == expected);
    let last = samples.last().copied().unwrap_or_default();
    Ok(Check {
        name: "monitoring",
        passed: impossible == 0 && complete,
        figures: format!(
            "{} samples, {impossible} of them impossible; {} of {} stages reported; {:.0} MiB held, {:.0} free of {:.0}",
            samples.len(),
            windows.last().map_or(0, |window| window.progress.len()),
            expected,
            last.own as f64 / MIB,
            last.free as f64 / MIB,
            last.total as f64 / MIB,
        ),
    })
}

/// Checks that guidance can be switched on and off between windows, and measures what it costs.
fn guidance(off: &TimedReply, on: &TimedReply, again: &TimedReply) -> anyhow::Result<Check> {
    let same = off.window()?.0 == again.window()?.0;
    let differs = off.window()?.0 != on.window()?.0;
    let (unguided, guided) = (window_cost(again)?, window_cost(on)?);
    Ok(Check {
        name: "guidance off, on, off",
        passed: same && differs,
        figures: format!(
            "without a reload, {} the first faces again; on takes {:.2} times as long and {:+.1} MiB at the peak",
            if same { "off gives" } else { "off does NOT give" },
            guided.seconds / unguided.seconds.max(f64::MIN_POSITIVE),
            (guided.peak_bytes as f64 - unguided.peak_bytes as f64) / MIB,
        ),
    })
}

/// Checks that a frame of the VAE leaves only its result in memory.
fn frames(setup: &Setup, windows: &[&TimedReply]) -> Check {
    let side = u64::from(setup.checkpoint.resolution_px());
    // One face in f32; the latents of a face are smaller.
    let allowed = 3 * side * side * 4 + BOOKKEEPING_BYTES;
    let is_encode = |stage: &EngineStage| matches!(stage, EngineStage::VaeEncode { .. });
    let is_decode = |stage: &EngineStage| matches!(stage, EngineStage::VaeDecode { .. });
    let growth = windows
        .iter()
        .flat_map(|window| {
            [live_bytes(window, is_encode), live_bytes(window, is_decode)]
                .into_iter()
                .flat_map(|live_bytes| increases(&live_bytes))
        })
        .max()
        .unwrap_or(0);
    Check {
        name: "clean after frames",
        passed: growth <= allowed,
        figures: format!(
            "at most {} KiB more after a frame; its result may take {} KiB",
            growth >> 10,
            allowed >> 10
        ),
    }
}

/// Checks that a denoising step leaves nothing in memory.
fn steps(windows: &[&TimedReply]) -> Check {
    let is_step = |stage: &EngineStage| matches!(stage, EngineStage::Denoise { .. });
    let increases = windows
        .iter()
        .flat_map(|window| increases(&live_bytes(window, is_step)));
    let growth = increases.max().unwrap_or(0);
    Check {
        name: "clean after steps",
        passed: growth <= BOOKKEEPING_BYTES,
        figures: format!("at most {growth} bytes more after a step"),
    }
}

/// Checks that as much memory is in use after each window.
fn after_windows(windows: &[&TimedReply]) -> anyhow::Result<Check> {
    let live_bytes: Vec<u64> = windows
        .iter()
        .map(|window| Ok(window.window()?.1.live))
        .collect::<anyhow::Result<_>>()?;
    let spread = live_bytes.iter().max().unwrap_or(&0) - live_bytes.iter().min().unwrap_or(&0);
    Ok(Check {
        name: "clean after windows",
        passed: spread <= BOOKKEEPING_BYTES,
        figures: format!(
            "{:.1} MiB in use after each; the largest difference is {spread} bytes",
            live_bytes.first().copied().unwrap_or(0) as f64 / MIB
        ),
    })
}

/// Checks that a second engine frees all memory after each of several injected faults, and then renders the
/// same faces.
async fn errors(setup: &Setup, device: &DeviceEngine, expected: &TimedReply) -> anyhow::Result<Check> {
    tracing::info!("rendering windows with injected faults");
    let mut faults = vec!["error@denoise#2", "oom@vae-decode#3"];
    if !device.is_gpu {
        // On CUDA a panic ends the engine.
        faults.push("panic@vae-encode#4");
    }
    let args: Vec<String> = faults
        .iter()
        .flat_map(|fault| ["--fault".to_owned(), (*fault).to_owned()])
        .collect();
    let mut engine = EngineUnderTest::start(setup, device, &args)?;
    engine.request(&requests::load(setup)).await?.ready()?;
    engine.request(&requests::audio()).await?.ready()?;
    let window = requests::window(setup, setup.args.steps, UNGUIDED);
    let before = engine.request(&window).await?.window()?.1.live;
    let mut wrong = Vec::new();
    for fault in &faults {
        match engine.request(&window).await?.reply {
            EngineReply::Failed(_) => {}
            other => wrong.push(format!("{fault} did not fail but gave {}", describe(&other))),
        }
    }
    let after = engine.request(&window).await?;
    let (faces, sample) = after.window()?;
    if faces != expected.window()?.0 {
        wrong.push("the window after the faults has other faces".to_owned());
    }
    let growth = sample.live.abs_diff(before);
    if growth > BOOKKEEPING_BYTES {
        wrong.push("memory was not freed".to_owned());
    }
    Ok(Check {
        name: "clean after errors",
        passed: wrong.is_empty(),
        figures: format!(
            "after {}: {growth} bytes of difference {}",
            faults.join(", "),
            wrong.join("; ")
        ),
    })
}

/// Renders many windows and feeds their samples to the leak detector, which must report no leak.
async fn leaks(setup: &Setup, engine: &mut EngineUnderTest) -> anyhow::Result<(Check, Vec<(u64, u64)>)> {
    tracing::info!(
        windows = setup.args.windows,
        "rendering windows in search of leaks"
    );
    let window = requests::window(setup, 1, UNGUIDED);
    let (mut leak_detector, mut detected, mut baselines) = (LeakDetector::default(), None, Vec::new());
    for count in 1..=setup.args.windows {
        let sample = engine.request(&window).await?.window()?.1;
        baselines.push((sample.live, sample.own));
        if let Some(leak) = leak_detector.push(&sample) {
            detected = Some(format!("{leak}, detected after window {count}"));
            break;
        }
        if count % setup.args.windows.div_ceil(10) == 0 {
            tracing::info!(
                "window {count} of {}: {:.1} MiB in use, {:.0} held",
                setup.args.windows,
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
        passed: detected.is_none(),
        figures: detected.unwrap_or(steady),
    };
    Ok((check, baselines))
}

/// Returns the bytes in use after each stage of a kind.
fn live_bytes(reply: &TimedReply, of: impl Fn(&EngineStage) -> bool) -> Vec<u64> {
    let samples = reply.progress.iter().filter(|(stage, _)| of(stage));
    samples.map(|(_, sample)| sample.live).collect()
}

/// Returns by how much each value exceeds the one before; 0 if it does not.
fn increases(live_bytes: &[u64]) -> Vec<u64> {
    live_bytes
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .collect()
}

/// Returns the time of a window and the highest peak of its samples.
fn window_cost(reply: &TimedReply) -> anyhow::Result<WindowCost> {
    let (_, last) = reply.window()?;
    let peaks = reply.progress.iter().map(|(_, sample)| sample.live_peak);
    Ok(WindowCost {
        seconds: reply.seconds,
        peak_bytes: peaks.chain([last.live_peak]).max().unwrap_or(0),
    })
}
