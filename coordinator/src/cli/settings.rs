//! Arguments, validated. A refusal names the value and its bounds.

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::time::InvalidFrameRate;

use super::args::RenderArgs;
use crate::ingest::{IngestRequest, RateChoice, SEGMENT_LIMITS};
use crate::local::WorkerOptions;
use crate::plan::split::{ChunkFrames, InvalidChunkFrames};
use crate::render::RenderSettings;
use crate::stitch::{OutputError, OutputTarget};

const X264_PRESETS: [&str; 10] = [
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
];
const MAX_WORKERS: usize = 64;
/// Frames of an `Analyze` chunk. Analysis is some ten times faster than real time: chunks of this size keep
/// the front moving without much queueing.
const ANALYZE_FRAMES: u32 = 128;

/// A validated command line of `latentfarm render`.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) render: RenderSettings,
    /// Workers of this machine, at least one.
    pub(super) workers: Vec<WorkerOptions>,
    pub(super) threads_per_worker: usize,
    pub(super) nats: Option<String>,
    pub(super) nats_server: Option<PathBuf>,
    pub(super) dry_run: bool,
    pub(super) json: bool,
}

/// A value that is out of its bounds.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsError {
    #[error("--fps takes `source`, N or N/D")]
    Rate(#[from] InvalidFrameRate),
    #[error("--chunk-frames does not fit")]
    ChunkFrames(#[from] InvalidChunkFrames),
    #[error("--steps {0} is out of 1 to 1000")]
    Steps(u32),
    #[error("--guidance {0} is out of 0 to 20")]
    Guidance(f32),
    #[error("--crf {0} is out of 0 to 51")]
    Crf(u8),
    #[error("--x264-preset `{0}` is not one of {list}", list = X264_PRESETS.join(", "))]
    X264Preset(String),
    #[error("--unplaceable-wait `{0}` is not a time such as 30s, 10m or 2h")]
    UnplaceableWait(String),
    #[error(
        "--worker `{spec}` is not `key=value,...` with keys such as name, device and reserve, each name once"
    )]
    Worker { spec: String },
    #[error("--workers {0} is out of 1 to {MAX_WORKERS}")]
    Workers(usize),
    #[error(
        "no weights: give --weights DIR; `latentfarm-worker weights synth --size tiny --out DIR` makes random \
         ones for trying the farm"
    )]
    NoWeights,
    #[error("cannot write the result")]
    Output(#[from] OutputError),
}

impl Settings {
    pub(super) fn new(args: RenderArgs) -> Result<Self, SettingsError> {
        let rate = match args.fps.as_str() {
            "source" => RateChoice::Source,
            text => RateChoice::Fixed(text.parse()?),
        };
        let (preset_steps, preset_guidance) = args.preset.schedule();
        let steps = args.steps.unwrap_or(preset_steps);
        if !(1..=1000).contains(&steps) {
            return Err(SettingsError::Steps(steps));
        }
        let guidance_scale = args.guidance.unwrap_or(preset_guidance);
        if !(0.0..=20.0).contains(&guidance_scale) {
            return Err(SettingsError::Guidance(guidance_scale));
        }
        if args.crf > 51 {
            return Err(SettingsError::Crf(args.crf));
        }
        if !X264_PRESETS.contains(&args.x264_preset.as_str()) {
            return Err(SettingsError::X264Preset(args.x264_preset));
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let count = match args.worker.len() {
            0 => args.workers.unwrap_or(if cores <= 2 { 1 } else { 2 }),
            given => given,
        };
        if !(1..=MAX_WORKERS).contains(&count) {
            return Err(SettingsError::Workers(count));
        }
        let workers = workers(&args, count)?;
        let weights = args.weights.ok_or(SettingsError::NoWeights)?;
        let target = OutputTarget::check(&args.output, args.force)?;
        let work_dir = args.work_dir.unwrap_or_else(|| {
            let mut name = args.output.clone().into_os_string();
            name.push(".latentfarm");
            name.into()
        });
        let threads_per_worker = (cores / count).max(1);
        let render = RenderSettings {
            ingest: IngestRequest {
                video: args.video,
                audio: args.audio,
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
            steps,
            guidance_scale,
            seed: args.seed,
            crf: (!args.lossless).then_some(args.crf),
            x264_preset: args.x264_preset,
            exact_audio: args.exact_audio,
            allow_no_face: args.allow_no_face,
            cpu_fallback: args.cpu_fallback,
            unplaceable_wait: time(&args.unplaceable_wait)?,
            chunk_frames: ChunkFrames::new(args.chunk_frames)?,
            analyze_frames: ChunkFrames::new(ANALYZE_FRAMES)?,
            threads: workers.len() * threads_per_worker,
            work_dir,
            discard_other: args.force,
            keep: args.keep,
        };
        Ok(Self {
            render,
            workers,
            threads_per_worker,
            nats: args.nats,
            nats_server: args.nats_server,
            dry_run: args.dry_run,
            json: args.json,
        })
    }
}

/// The workers that were asked for: `count` alike, or each as its SPEC says.
fn workers(args: &RenderArgs, count: usize) -> Result<Vec<WorkerOptions>, SettingsError> {
    let mut common = Vec::new();
    if let Some(device) = &args.device {
        common.extend(["--device".to_owned(), device.clone()]);
    }
    if let Some(reserve) = args.reserve {
        common.extend(["--reserve".to_owned(), reserve.to_string()]);
    }
    let mut workers: Vec<WorkerOptions> = Vec::with_capacity(count);
    for number in 1..=count {
        let spec = args.worker.get(number - 1).map_or("", String::as_str);
        let wrong = || SettingsError::Worker {
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
        let is_own = |flag: &str| own.iter().any(|option| option.starts_with(&format!("{flag}=")));
        let mut options: Vec<String> = common
            .chunks(2)
            .filter(|pair| !is_own(&pair[0]))
            .flatten()
            .cloned()
            .collect();
        options.append(&mut own);
        workers.push(WorkerOptions { id, args: options });
    }
    Ok(workers)
}

/// `30s`, `10m`, `2h`.
fn time(text: &str) -> Result<Duration, SettingsError> {
    let wrong = || SettingsError::UnplaceableWait(text.to_owned());
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number
        .checked_mul(unit)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;
    use clap::Parser as _;

    fn asked(options: &[&str]) -> Result<Vec<WorkerOptions>, SettingsError> {
        let line = ["latentfarm", "render", "a.mp4", "b.wav", "-o", "c.mp4"];
        let parsed = args::Args::try_parse_from(line.iter().chain(options)).unwrap();
        let args::Command::Render(args) = parsed.command else {
            panic!("another command")
        };
        let count = args.worker.len().max(args.workers.unwrap_or(1));
        workers(&args, count)
    }

    #[test]
    fn a_worker_has_the_common_options_and_its_own() {
        let alike = asked(&["--workers", "2", "--device", "auto", "--reserve", "256"]).unwrap();
        assert_eq!(alike[1].id.as_str(), "w2");
        assert_eq!(alike[1].args, ["--device", "auto", "--reserve", "256"]);
        let mixed = asked(&[
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
        assert!(asked(&["--worker", "name=a", "--worker", "name=a"]).is_err());
        assert!(asked(&["--worker", "fast"]).is_err());
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(time("10m").unwrap(), Duration::from_mins(10));
        for text in ["", "10", "m", "1d", "-1s"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
