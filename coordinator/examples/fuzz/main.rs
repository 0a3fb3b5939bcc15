//! Fuzzes ingest with damaged media files: the target `media` of `deploy/fuzz`. The targets that libFuzzer
//! runs are in `tests/fuzz`; FFmpeg is C, so that its inputs run in processes of their own instead.
//!
//! ```text
//! fuzz [--seconds N] [--seed S] [--dir DIR]
//! ```
//! Inputs follow from the seed and their number, so the same seed gives the same inputs everywhere. They run
//! in child processes, in batches; a batch whose child dies, hangs or uses too much memory is a finding,
//! which is written to `DIR/findings` with the command that repeats it. `DIR/SEED.media` has the number of
//! the next batch: the same command goes on there. Exit code 1 means that something was found.

mod media;
mod mutate;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;

/// A child that reports nothing for this long hangs. An input takes milliseconds; the rest is for a machine
/// that is busy with other work.
const HANG: Duration = Duration::from_mins(1);
/// Address space of a child, in KiB: several times what ingest needs for any of these inputs.
const ADDRESS_SPACE_KIB: u64 = 4 << 20;

#[derive(Parser)]
struct Args {
    /// How long to go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// From which all inputs follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for seed files, findings and the state
    #[arg(long, default_value = ".cache/fuzz")]
    dir: PathBuf,
    /// Run only this batch, in this process
    #[arg(long)]
    batch: Option<u64>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let dir = std::path::absolute(&args.dir)?;
    if let Some(batch) = args.batch {
        return run_batch(args.seed, batch, &dir);
    }
    media::make_seeds(&dir.join("seeds"))?;
    fs::create_dir_all(dir.join("findings"))?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut findings = 0;
    while Instant::now() < end {
        findings += u32::from(!supervise(args.seed, &dir)?);
    }
    say(&format!(
        "{findings} findings in {}",
        dir.join("findings").display()
    ));
    Ok(if findings == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the batch that is next in a child process. Returns false if it found something.
fn supervise(seed: u64, dir: &Path) -> anyhow::Result<bool> {
    let state = dir.join(format!("{seed}.media"));
    let batch: u64 = match fs::read_to_string(&state) {
        Ok(text) => text.trim().parse().context("the state is no number")?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error).context("cannot read the state"),
    };
    let own = std::env::current_exe()?;
    let repeat = format!(
        "{} --seed {seed} --batch {batch} --dir {}",
        own.display(),
        dir.display()
    );
    let mut child = Command::new("bash")
        .args(["-c", &format!("ulimit -v {ADDRESS_SPACE_KIB}; exec {repeat}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (printed, hangs) = follow(&mut child)?;
    let status = child.wait()?;
    if hangs || !status.success() {
        let how = if hangs {
            "hangs".to_owned()
        } else {
            status.to_string()
        };
        let path = dir.join("findings").join(format!("media-{seed}-{batch}"));
        fs::write(&path, format!("{repeat}\n{how}\n{printed}\n"))?;
        say(&format!("FOUND: {how}, see {}", path.display()));
    } else if let Some(line) = printed.lines().last() {
        say(&format!("media {batch}: {line}"));
    }
    fs::write(&state, format!("{}\n", batch + 1))?;
    Ok(!hangs && status.success())
}

/// Collects what a child prints until it ends. A child that hangs is killed.
fn follow(child: &mut Child) -> anyhow::Result<(String, bool)> {
    let (sender, lines) = mpsc::channel();
    let pipes: [Option<Box<dyn io::Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for pipe in pipes.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let _nobody_reads = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }
    drop(sender);
    let mut printed = Vec::new();
    loop {
        match lines.recv_timeout(HANG) {
            Ok(line) => printed.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill()?;
                return Ok((printed.join("\n"), true));
            }
        }
    }
    // FFmpeg logs much about damage; the end is enough to see what was running.
    let kept = printed.len().saturating_sub(200);
    Ok((printed.split_off(kept).join("\n"), false))
}

/// Runs one batch in this process.
fn run_batch(seed: u64, batch: u64, dir: &Path) -> anyhow::Result<ExitCode> {
    let scratch = tempfile::tempdir()?;
    let mut counts = std::collections::BTreeMap::<&str, u32>::new();
    for index in batch * media::BATCH..(batch + 1) * media::BATCH {
        say(&format!("input {index}"));
        match media::run(&dir.join("seeds"), scratch.path(), seed, index) {
            Ok(words) => words
                .into_iter()
                .for_each(|word| *counts.entry(word).or_default() += 1),
            Err(error) => {
                let (name, bytes) = media::input(&dir.join("seeds"), seed, index)?;
                let path = dir.join("findings").join(format!("{seed}-{index}-{name}"));
                fs::write(&path, bytes)?;
                bail!("{}: {error:#}", path.display());
            }
        }
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    say(&format!("{} inputs: {}", media::BATCH, counts.join(", ")));
    Ok(ExitCode::SUCCESS)
}

/// Prints a line to standard output.
fn say(line: &str) {
    let _closed = writeln!(io::stdout(), "{line}");
}
