//! `latentfarm-engine check`: checks that a device computes correctly, and measures the memory that it needs.
//!
//! These checks need the engine alone, while a worker needs FFmpeg's libraries too. `deploy/gpu-check` runs
//! them on a machine that is to join a farm. Every result is one JSON object on a line of its own.

mod layers;
mod open;
mod parts;
mod print;
mod verdicts;
mod windows;

use std::io::{Write, stdin};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::bail;
use clap::builder::RangedU64ValueParser;
use latentsync::check_kernels;
use latentsync::synth::{Size, synthesize};
use serde_json::json;

use self::print::{all_passed, memory, print};
use crate::EngineSettings;

pub use self::windows::WindowsArgs;

/// The checks, each with its arguments.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Check {
    /// Open the device, run every kernel and a product in each number type, and print what the device is
    Open,
    /// Compare every kernel of a CUDA build with the reference on the device
    Kernels,
    /// Write random weights for the other checks
    Synth {
        /// Write weights of the published sizes (2.5 GiB) instead of tiny ones
        #[arg(long)]
        full: bool,
        /// Folder to create and write the weights to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Compare every network on the device with the CPU
    Parts {
        /// Folder with the model weights; small ones, since the CPU computes with them too
        #[arg(long, value_name = "DIR")]
        weights: PathBuf,
    },
    /// Compare single layers of the published widths with the CPU
    Layers {
        /// Divide the sides of images and the numbers of tokens by this
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=8))]
        shrink: usize,
    },
    /// Render windows through the whole engine and print the memory after each request
    Windows(WindowsArgs),
    /// Take the device's memory except for a rest, and hold it until the input ends
    Hold {
        /// Amount of memory to leave free, in MiB
        #[arg(long, value_name = "MIB")]
        leave: u64,
    },
}

/// Runs one check and writes its results to `output`.
///
/// # Errors
/// Fails if the check cannot run or does not pass.
pub fn check(check: Check, mut settings: EngineSettings, output: &mut impl Write) -> anyhow::Result<()> {
    let started = Instant::now();
    let on_cpu = settings.device.device.is_cpu();
    match check {
        Check::Open => open::open(&settings.device, output),
        Check::Kernels | Check::Hold { .. } if on_cpu => {
            bail!("this check is for GPUs only: name one with `--device cuda:N`")
        }
        Check::Kernels => {
            let checks = check_kernels(&settings.device.device)?;
            for check in &checks {
                print(output, "kernel", &json!(check), 0.0)?;
            }
            let failed = checks.iter().filter(|check| !check.passed()).count();
            all_passed(failed, checks.len())
        }
        Check::Synth { full, out } => {
            let size = if full { Size::Full } else { Size::Tiny };
            Ok(synthesize(&out, size, 1)?)
        }
        Check::Parts { weights } => {
            let device = (&settings.device.device, settings.device.computes_as.as_str());
            parts::parts(&weights, device, output)
        }
        Check::Layers { shrink } => layers::layers(&settings.device.device, shrink, output),
        Check::Windows(args) => windows::windows(&args, settings, output),
        Check::Hold { leave } => {
            let free = settings.device.memory.reading().free;
            settings.device.memory.leak(free.saturating_sub(leave << 20));
            let reading = memory(&settings.device.memory.reading());
            print(output, "hold", &reading, started.elapsed().as_secs_f64())?;
            stdin().read_line(&mut String::new())?;
            Ok(())
        }
    }
}
