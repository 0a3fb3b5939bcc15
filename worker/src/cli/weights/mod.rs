//! `latentfarm-worker weights` fetches, makes, converts, verifies and describes checkpoints, and has the demo weights.

mod bar;
mod demo;
mod describe;
mod hub;
mod pull;
mod stall;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use indicatif::BinaryBytes;
use latentfarm_common::console::tell;

use super::exit::{EXIT_CANNOT_WORK, failed, print, usage_error};
use crate::machine::probe::DeviceSelector;
use bar::{bar, spinner};
use latentsync::checkpoint::{self as weights, DigestCheck, FileCheck, FolderMetadata, StoredAs};
use latentsync::{Checkpoint, WeightsError, synth};
use pull::Model;

#[derive(Subcommand, Debug)]
pub(super) enum WeightsCommand {
    /// Fetch the published weights from the Hugging Face hub or a mirror of it
    ///
    /// What was fetched before an interruption is kept, and the same command resumes from there. Every file
    /// is checked against the digest that the hub gives before it gets its name in the folder.
    #[command(after_help = pull::HELP)]
    Pull(pull::PullArgs),
    /// Write a copy of a checkpoint as safetensors in one number type; f16 halves the size
    ///
    /// Only one tensor is in memory at a time. Position tables stay in f32.
    #[command(
        after_help = "Examples:\n  latentfarm-worker weights convert ~/latentsync --out ~/latentsync-f16\n  \
                      latentfarm-worker weights convert ~/latentsync --out ~/latentsync-f32 --dtype f32"
    )]
    Convert {
        /// Folder that holds the checkpoint
        dir: PathBuf,
        /// Folder to write to; it must be new, empty, or made by this command
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Number type of the values
        #[arg(long, value_enum, default_value = "f16")]
        dtype: ConvertTo,
    },
    /// Print the folder with the demo weights that come with latentfarm, or write them to another one
    ///
    /// They are a small model of drawn faces and synthetic speech: lips follow the speech, faces are soft. `render`
    /// on one machine uses them where no weights are named. Everything that is made with them is marked DEMO WEIGHTS.
    #[command(
        after_help = "Examples:\n  latentfarm-worker weights demo\n  latentfarm-worker weights demo --out weights-demo"
    )]
    Demo {
        /// Folder to write to; it must be new, empty, or made by this command (default: a folder in the user's cache)
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Make random weights in the published layout, for tests
    ///
    /// They render random mouths. Everything that is made with them is marked SYNTHETIC WEIGHTS.
    #[command(after_help = "Example:\n  latentfarm-worker weights synth --size tiny --out weights-tiny")]
    Synth {
        /// Size of the model to make
        #[arg(long, value_enum)]
        size: SynthSize,
        /// Folder to write to; it must be new, empty, or made by this command
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Seed of the random values; equal seeds give equal weights
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Published model whose memory simulated GPUs count in place of these weights
        ///
        /// A laptop can then simulate a farm that places tasks of many GiB. On the CPU the real size counts.
        #[arg(long, value_enum, value_name = "VERSION")]
        account_as: Option<Model>,
    },
    /// Read a whole checkpoint and report for each file whether it is good
    ///
    /// The digests must be those recorded when the files were made or first used, the names and shapes of
    /// tensors those of the configurations, and every value a finite number.
    #[command(after_help = "Example:\n  latentfarm-worker weights verify ~/latentsync")]
    Verify {
        /// Folder that holds the checkpoint
        dir: PathBuf,
    },
    /// Print what a checkpoint is and what memory it needs, after checking its tensors
    #[command(after_help = "Example:\n  latentfarm-worker weights describe --json ~/latentsync")]
    Describe {
        /// Folder that holds the checkpoint
        dir: PathBuf,
        /// Print the memory that this device needs alone, and how much of it is free: `cpu`, `auto` (the first usable
        /// GPU, or the CPU if there is none), `cuda:N`, a GPU's UUID or `sim:PATH` (default: both kinds of device)
        #[arg(long, value_name = "DEVICE")]
        device: Option<DeviceSelector>,
        /// Print one JSON object instead of the text
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SynthSize {
    /// A few MiB; a window takes well under a second
    Tiny,
    /// Some hundred MiB at 256 px, with layers of realistic proportions
    Small,
    /// 2.5 GiB at 256 px, the published sizes, for measurements; a window takes minutes on a CPU
    Full,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ConvertTo {
    /// 16-bit floats, half the size of f32
    F16,
    /// 32-bit floats, in which a CPU computes, so that nothing is converted while it renders
    F32,
}

pub(super) fn main(command: WeightsCommand) -> ExitCode {
    let outcome = match command {
        WeightsCommand::Pull(args) => return pull::main(&args),
        WeightsCommand::Demo { out } => {
            return match demo::write_or_find(out.as_deref()) {
                Ok(text) => print(&text, ExitCode::SUCCESS),
                Err(error) => usage_error(error.as_ref()),
            };
        }
        WeightsCommand::Convert { dir, out, dtype } => convert(&dir, &out, dtype),
        WeightsCommand::Synth {
            size,
            out,
            seed,
            account_as,
        } => make(size, &out, seed, account_as),
        WeightsCommand::Verify { dir } => return verify(&dir),
        WeightsCommand::Describe { dir, device, json } => {
            let device = match device.as_ref().map(describe::DescribedDevice::read).transpose() {
                Ok(device) => device,
                Err(error) => return failed(error.as_ref(), EXIT_CANNOT_WORK),
            };
            describe::describe(&dir, device, json)
        }
    };
    match outcome {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(error) => usage_error(&error),
    }
}

fn make(size: SynthSize, out: &Path, seed: u64, account_as: Option<Model>) -> Result<String, WeightsError> {
    let size = match size {
        SynthSize::Tiny => synth::Size::Tiny,
        SynthSize::Small => synth::Size::Small,
        SynthSize::Full => synth::Size::Full,
    };
    let bytes = synth::bytes_of(size)?;
    tell(format_args!(
        "writing {} to {}",
        BinaryBytes(bytes),
        out.display()
    ));
    let bar = bar("random weights", bytes);
    synth::synthesize_watched(out, size, seed, &mut |more| bar.inc(more))?;
    if let (Some(version), Some(mut metadata)) = (account_as, FolderMetadata::read(out)?) {
        metadata.account_as = Some(version.account_as());
        metadata.write(out)?;
    }
    Ok(format!("SYNTHETIC WEIGHTS in {}", out.display()))
}

fn convert(dir: &Path, out: &Path, dtype: ConvertTo) -> Result<String, WeightsError> {
    let stored_as = match dtype {
        ConvertTo::F16 => StoredAs::F16,
        ConvertTo::F32 => StoredAs::F32,
    };
    let bytes = weights::converted_bytes(dir, stored_as)?;
    tell(format_args!(
        "writing {} to {}",
        BinaryBytes(bytes),
        out.display()
    ));
    let bar = bar("converting", bytes);
    weights::convert(dir, out, stored_as, &mut |more| bar.inc(more))?;
    let mark = Checkpoint::open(out)?.kind().mark();
    let marked = mark.map_or_else(String::new, |mark| format!("{mark}, "));
    Ok(format!("{marked}converted to {}", out.display()))
}

fn verify(dir: &Path) -> ExitCode {
    let bar = spinner("verifying");
    let verdicts = match weights::verify(dir, &mut |more| bar.inc(more)) {
        Ok(verdicts) => verdicts,
        Err(error) => return usage_error(&error),
    };
    drop(bar);
    let lines: Vec<String> = verdicts.iter().map(verdict_line).collect();
    let (text, folder) = (lines.join("\n"), dir.display());
    if !verdicts.iter().all(FileCheck::is_good) {
        let text = format!("{text}\n{folder}: cannot be used; replace the files marked BAD");
        return print(&text, ExitCode::from(2));
    }
    match Checkpoint::open(dir) {
        Ok(checkpoint) => {
            let text = format!("{text}\n{folder}: complete, identity {}", checkpoint.identity());
            print(&text, ExitCode::SUCCESS)
        }
        Err(error) => usage_error(&error),
    }
}

fn verdict_line(verdict: &FileCheck) -> String {
    let mut line = format!("{} ({}): ", verdict.name, BinaryBytes(verdict.bytes));
    line.push_str(if verdict.is_good() { "good" } else { "BAD" });
    let digest = match verdict.digest {
        DigestCheck::MatchesRecord => "digest as recorded when it was made".to_owned(),
        DigestCheck::MatchesFirstUse => "digest as when it was first used here".to_owned(),
        DigestCheck::NotRecorded => "no earlier digest to compare with".to_owned(),
        DigestCheck::Mismatch { expected, found } => {
            format!("SHA-256 is {found}, not {expected}: the file is damaged or was replaced")
        }
    };
    let _infallible = match &verdict.problem {
        None => write!(
            line,
            ", {digest}, all {} tensors fit and are finite",
            verdict.tensors
        ),
        Some(problem) => write!(line, ", {digest}; {problem}"),
    };
    line
}
