//! `latentfarm-worker weights`: pull, make, convert, check and describe checkpoints.

mod bar;
mod describe;
mod hub;
mod pull;
mod watch;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use indicatif::BinaryBytes;

use super::exit::{refuse, say};
use bar::{bar, spinner};
use latentsync::checkpoint::{self as weights, DigestVerdict, FileVerdict, Note, StoredAs};
use latentsync::{Checkpoint, WeightsError, synth};
use pull::Model;

#[derive(Subcommand, Debug)]
pub(super) enum WeightsCommand {
    /// Fetch the published weights from the Hugging Face hub or a mirror of it
    ///
    /// What was fetched before an interruption is kept, and the same command goes on from there. Every file is
    /// checked against the digest that the hub names before it gets its name in the folder.
    #[command(after_help = pull::HELP)]
    Pull(pull::PullArgs),
    /// Write a checkpoint anew as safetensors in one type: half the size, and quick to load
    ///
    /// One tensor is in memory at a time. Position tables stay in f32.
    #[command(
        after_help = "Examples:\n  latentfarm-worker weights convert ~/latentsync --out ~/latentsync-f16\n  \
                      latentfarm-worker weights convert ~/latentsync --out ~/latentsync-f32 --dtype f32"
    )]
    Convert {
        /// Folder with the checkpoint
        dir: PathBuf,
        /// Folder to write to: new, empty, or made by this command
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Type of the values
        #[arg(long, value_enum, default_value = "f16")]
        dtype: ConvertTo,
    },
    /// Make random weights in the published layout, for trying the farm without a download
    ///
    /// They move the mouth region at random. Whatever is made with them says so.
    #[command(after_help = "Example:\n  latentfarm-worker weights synth --size tiny --out weights-tiny")]
    Synth {
        /// How large a model to make
        #[arg(long, value_enum)]
        size: SynthSize,
        /// Folder to write to: new, empty, or made by this command
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Equal seeds give equal weights
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Simulated GPUs count the memory that this published model would take
        ///
        /// A laptop then plays a farm whose decisions are about GiB. On the CPU the weights count as what they are.
        #[arg(long, value_enum, value_name = "VERSION")]
        account_as: Option<Model>,
    },
    /// Read a checkpoint whole and say of each file whether it is what it should be
    ///
    /// Compares digests with those noted when the files were made or first used, names and shapes with the
    /// configurations, and reads every value.
    #[command(after_help = "Example:\n  latentfarm-worker weights verify ~/latentsync")]
    Verify {
        /// Folder with the checkpoint
        dir: PathBuf,
    },
    /// Say what a checkpoint is, after checking the names and shapes of its tensors
    #[command(after_help = "Example:\n  latentfarm-worker weights describe --json ~/latentsync")]
    Describe {
        /// Folder with the checkpoint
        dir: PathBuf,
        /// One JSON object, for programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SynthSize {
    /// A few MiB: a window takes well under a second
    Tiny,
    /// Some hundred MiB, 256 px: the memory and speed of a real shape, in small
    Small,
    /// 2.5 GiB: the published sizes, 256 px, for measuring; a window takes minutes on a CPU
    Full,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ConvertTo {
    /// Half the size
    F16,
    /// Twice the size, but a CPU computes in it, so that nothing is converted at the start
    F32,
}

pub(super) fn main(command: WeightsCommand) -> ExitCode {
    let outcome = match command {
        WeightsCommand::Pull(args) => return pull::main(&args),
        WeightsCommand::Convert { dir, out, dtype } => convert(&dir, &out, dtype),
        WeightsCommand::Synth {
            size,
            out,
            seed,
            account_as,
        } => make(size, &out, seed, account_as),
        WeightsCommand::Verify { dir } => return verify(&dir),
        WeightsCommand::Describe { dir, json } => describe::describe(&dir, json),
    };
    match outcome {
        Ok(text) => say(&text, ExitCode::SUCCESS),
        Err(error) => refuse(&error),
    }
}

fn make(size: SynthSize, out: &Path, seed: u64, account_as: Option<Model>) -> Result<String, WeightsError> {
    let size = match size {
        SynthSize::Tiny => synth::Size::Tiny,
        SynthSize::Small => synth::Size::Small,
        SynthSize::Full => synth::Size::Full,
    };
    let bytes = synth::bytes_of(size)?;
    eprintln!("writing {} to {}", BinaryBytes(bytes), out.display());
    let bar = bar("random weights", bytes);
    synth::synthesize_watched(out, size, seed, &mut |more| bar.inc(more))?;
    if let (Some(version), Some(mut note)) = (account_as, Note::read(out)?) {
        note.account_as = Some(version.account_as());
        note.write(out)?;
    }
    Ok(format!("SYNTHETIC WEIGHTS in {}", out.display()))
}

fn convert(dir: &Path, out: &Path, dtype: ConvertTo) -> Result<String, WeightsError> {
    let stored_as = match dtype {
        ConvertTo::F16 => StoredAs::F16,
        ConvertTo::F32 => StoredAs::F32,
    };
    let bytes = weights::converted_bytes(dir, stored_as)?;
    eprintln!("writing {} to {}", BinaryBytes(bytes), out.display());
    let bar = bar("converting", bytes);
    weights::convert(dir, out, stored_as, &mut |more| bar.inc(more))?;
    let marked = if Checkpoint::open(out)?.synthetic() {
        "SYNTHETIC WEIGHTS, "
    } else {
        ""
    };
    Ok(format!("{marked}converted to {}", out.display()))
}

fn verify(dir: &Path) -> ExitCode {
    let bar = spinner("verifying");
    let verdicts = match weights::verify(dir, &mut |more| bar.inc(more)) {
        Ok(verdicts) => verdicts,
        Err(error) => return refuse(&error),
    };
    drop(bar);
    let lines: Vec<String> = verdicts.iter().map(verdict_line).collect();
    let text = lines.join("\n");
    if verdicts.iter().all(FileVerdict::is_good) {
        return match Checkpoint::open(dir) {
            Ok(checkpoint) => say(
                &format!(
                    "{text}\n{}: complete, identity {}",
                    dir.display(),
                    checkpoint.identity()
                ),
                ExitCode::SUCCESS,
            ),
            Err(error) => refuse(&error),
        };
    }
    say(
        &format!(
            "{text}\n{}: cannot be used; replace the files that are BAD",
            dir.display()
        ),
        ExitCode::from(2),
    )
}

fn verdict_line(verdict: &FileVerdict) -> String {
    let mut line = format!("{} ({}): ", verdict.name, BinaryBytes(verdict.bytes));
    line.push_str(if verdict.is_good() { "good" } else { "BAD" });
    let digest = match verdict.digest {
        DigestVerdict::AsMade => "digest as noted when it was made".to_owned(),
        DigestVerdict::AsFirstUsed => "digest as when it was first used here".to_owned(),
        DigestVerdict::Unknown => "nothing to compare its digest with".to_owned(),
        DigestVerdict::Wrong { expected, found } => {
            format!("SHA-256 is {found}, not {expected}: the file is damaged, or another one")
        }
    };
    // Writing to a text cannot fail.
    let _written = match &verdict.problem {
        None => write!(
            line,
            ", {digest}, all {} tensors fit and are finite",
            verdict.tensors
        ),
        Some(problem) => write!(line, ", {digest}; {problem}"),
    };
    line
}
