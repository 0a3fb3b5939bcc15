//! Turns the arguments of `latentfarm render` into validated settings. The `render` subcommand calls this
//! once, before it starts anything; an argument that is refused here is exit code 2.

use std::num::NonZero;
use std::path::PathBuf;

use latentfarm_common::InvalidText;
use latentfarm_common::ids::WorkerId;

use super::args::{JobArgs, RenderArgs};
use crate::ingest::{IngestRequest, RateChoice, SEGMENT_LIMITS};
use crate::local::WorkerOptions;
use crate::plan::split::{ChunkFrames, InvalidChunkFrames};
use crate::render::{RenderSettings, WorkFolder};
use crate::stitch::{OutputError, OutputTarget};

const MAX_WORKERS: usize = 64;
/// The number of frames of VIDEO in one analysis chunk. A render chunk is published once the faces of its
/// frames are known. Analysis is about ten times faster than real time, so analysis chunks of this size
/// release render chunks in quick succession and still are few messages.
const ANALYZE_FRAMES: u32 = 128;

/// A validated command line of `latentfarm render`.
#[derive(Debug)]
pub(super) struct RenderCommand {
    pub(super) render: RenderSettings,
    /// The workers of a private farm, at least one. With `nats` the farm has workers of its own, and none of
    /// these is started.
    pub(super) workers: Vec<WorkerOptions>,
    /// The number of computing threads of each of `workers`.
    pub(super) threads_per_worker: usize,
    /// The URL of an existing farm's nats-server; `None` starts a private farm on this machine.
    pub(super) nats: Option<String>,
    /// The nats-server program for a private farm; `None` looks for one beside this program and on the
    /// `PATH`.
    pub(super) nats_server: Option<PathBuf>,
    /// How a decimal frame rate was understood.
    pub(super) rate_note: Option<String>,
    /// The inputs are examined and the estimate is printed, but nothing is rendered.
    pub(super) dry_run: bool,
    /// Events are printed as JSON lines in place of progress bars.
    pub(super) json: bool,
}

/// An argument that is missing, malformed or out of its bounds.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArgumentError {
    #[error("--fps must be `source`, N, N/D or a decimal number")]
    Rate(#[from] InvalidText),
    #[error("--chunk-frames is not a valid chunk length")]
    ChunkFrames(#[from] InvalidChunkFrames),
    #[error("--guidance {0} is not between 0 and 20")]
    Guidance(f32),
    #[error(
        "--worker `{spec}` is not `key=value,...` with keys such as name, device and reserve, or its name is used twice"
    )]
    Worker { spec: String },
    #[error("--workers {0} is not between 1 and {MAX_WORKERS}")]
    Workers(usize),
    #[error(
        "no weights are given: name their folder with --weights DIR; `latentfarm-worker weights synth --size tiny \
         --out DIR` makes random ones for trying the farm"
    )]
    NoWeights,
    #[error("cannot write the result")]
    Output(#[from] OutputError),
}

impl RenderCommand {
    pub(super) fn new(args: RenderArgs) -> Result<Self, ArgumentError> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let count = match args.worker.len() {
            0 => args.workers.unwrap_or(if cores <= 2 { 1 } else { 2 }),
            given => given,
        };
        if !(1..=MAX_WORKERS).contains(&count) {
            return Err(ArgumentError::Workers(count));
        }
        let workers = workers(&args, count)?;
        let threads_per_worker = (cores / count).max(1);
        let discard_other = args.job.force;
        let JobSettings {
            mut render,
            rate_note,
        } = JobSettings::new(args.job, workers.len() * threads_per_worker)?;
        render.work = args.nats.is_none().then(|| WorkFolder {
            path: args.work_dir.unwrap_or_else(|| {
                let mut path = render.target.path().as_os_str().to_owned();
                path.push(".latentfarm");
                path.into()
            }),
            discard_other,
            keep: args.keep,
        });
        Ok(Self {
            render,
            workers,
            threads_per_worker,
            nats: args.nats,
            nats_server: args.nats_server,
            rate_note,
            dry_run: args.dry_run,
            json: args.json,
        })
    }
}

/// The validated options of a job.
#[derive(Debug)]
pub(super) struct JobSettings {
    /// They name no job folder.
    pub(super) render: RenderSettings,
    /// How a decimal frame rate was understood.
    pub(super) rate_note: Option<String>,
}

impl JobSettings {
    /// `threads` is the number of engine threads over all workers, for the estimate.
    pub(super) fn new(args: JobArgs, threads: usize) -> Result<Self, ArgumentError> {
        let rate = match args.fps.as_str() {
            "source" => RateChoice::Source,
            text => RateChoice::Fixed(text.parse()?),
        };
        let rate_note = match rate {
            RateChoice::Fixed(exact) if args.fps.contains('.') => Some(format!(
                "--fps {} is taken as {exact} frames per second",
                args.fps
            )),
            RateChoice::Fixed(_) | RateChoice::Source => None,
        };
        let (preset_steps, preset_guidance) = args.preset.sampling();
        let guidance_scale = args.guidance.unwrap_or(preset_guidance);
        if !(0.0..=20.0).contains(&guidance_scale) {
            return Err(ArgumentError::Guidance(guidance_scale));
        }
        let weights = args.weights.ok_or(ArgumentError::NoWeights)?;
        let target = OutputTarget::check(&args.output, &[&args.video, &args.audio], args.force)?;
        let render = RenderSettings {
            ingest: IngestRequest {
                video: args.video,
                audio: args.audio,
                audio_track: args.audio_track.unwrap_or_default(),
                audio_offset: args.audio_offset,
                exact_audio: args.exact_audio,
                container: target.container(),
                scratch: std::env::temp_dir(),
                rate,
                on_short: args.on_short,
                keep_tail: args.keep_tail,
                windows: args.audio_windows,
                silence: args.silence,
                limits: SEGMENT_LIMITS,
            },
            target,
            weights,
            steps: args.steps.unwrap_or(preset_steps),
            guidance_scale,
            seed: args.seed,
            crf: (!args.lossless).then_some(args.crf),
            x264_preset: args.x264_preset,
            allow_no_face: args.allow_no_face,
            cpu_fallback: args.cpu_fallback,
            one_kind: args.one_kind,
            unplaceable_wait: args.unplaceable_wait,
            chunk_frames: ChunkFrames::new(args.chunk_frames)?,
            analyze_frames: ChunkFrames::new(ANALYZE_FRAMES)?,
            threads,
            work: None,
        };
        Ok(Self { render, rate_note })
    }
}

/// Returns the options of `count` workers: the common ones of the command line, and each worker's own from
/// its `--worker`.
fn workers(args: &RenderArgs, count: usize) -> Result<Vec<WorkerOptions>, ArgumentError> {
    let mut workers: Vec<WorkerOptions> = Vec::with_capacity(count);
    for number in 1..=count {
        let spec = args.worker.get(number - 1).map_or("", String::as_str);
        let wrong = || ArgumentError::Worker {
            spec: spec.to_owned(),
        };
        let mut name = format!("w{number}");
        let mut own = Vec::new();
        for part in spec.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            match key {
                "name" => value.clone_into(&mut name),
                // `--key=value`: the value may begin with a dash.
                _ => own.push(format!("--{key}={value}")),
            }
        }
        let id: WorkerId = name.parse().map_err(|_| wrong())?;
        if workers.iter().any(|other| other.id == id) {
            return Err(wrong());
        }
        let mut options = Vec::new();
        let reserve = args.reserve.map(|mib| mib.to_string());
        for (flag, common) in [("--device", args.device.clone()), ("--reserve", reserve)] {
            let is_own = own.iter().any(|option| option.starts_with(&format!("{flag}=")));
            if let (Some(value), false) = (common, is_own) {
                options.extend([flag.to_owned(), value]);
            }
        }
        options.append(&mut own);
        workers.push(WorkerOptions { id, args: options });
    }
    Ok(workers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;
    use clap::Parser as _;

    fn parsed(options: &[&str]) -> Result<Vec<WorkerOptions>, ArgumentError> {
        let line = ["latentfarm", "render", "a.mp4", "b.wav", "-o", "c.mp4"];
        let args = args::Args::try_parse_from(line.iter().chain(options)).unwrap();
        let args::Command::Render(args) = args.command else {
            panic!("another command")
        };
        let count = args.worker.len().max(args.workers.unwrap_or(1));
        workers(&args, count)
    }

    #[test]
    fn a_worker_has_the_common_options_and_its_own() {
        let alike = parsed(&["--workers", "2", "--device", "auto", "--reserve", "256"]).unwrap();
        assert_eq!(alike[1].id.as_str(), "w2");
        assert_eq!(alike[1].args, ["--device", "auto", "--reserve", "256"]);
        let mixed = parsed(&[
            "--worker",
            "name=small,device=sim:/tmp/small,engine-arg=--fault=oom@denoise",
            "--worker",
            "",
            "--device",
            "cpu",
        ])
        .unwrap();
        assert_eq!(mixed[0].id.as_str(), "small");
        assert_eq!(
            mixed[0].args,
            ["--device=sim:/tmp/small", "--engine-arg=--fault=oom@denoise"]
        );
        assert_eq!(mixed[1].id.as_str(), "w2");
        assert_eq!(mixed[1].args, ["--device", "cpu"]);
        assert!(parsed(&["--worker", "name=a", "--worker", "name=a"]).is_err());
        assert!(parsed(&["--worker", "fast"]).is_err());
    }
}
