//! Arguments, validated. A refusal names the value and its bounds.

use std::num::NonZero;
use std::path::PathBuf;

use latentfarm_common::time::InvalidFrameRate;
use latentfarm_common::wire::job::{AudioWindows, SilenceMode};

use super::args::{self, AudioWindowsArg, Preset, RenderArgs, SilenceArg};
use crate::ingest::{OnShort, RateChoice};
use crate::plan::split::{ChunkFrames, InvalidChunkFrames};
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

/// What one render is to do.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub(super) struct Settings {
    pub(super) video: PathBuf,
    pub(super) audio: PathBuf,
    pub(super) target: OutputTarget,
    pub(super) force: bool,
    pub(super) weights: PathBuf,
    pub(super) steps: u32,
    pub(super) guidance_scale: f32,
    pub(super) seed: u64,
    pub(super) audio_windows: AudioWindows,
    pub(super) silence: SilenceMode,
    pub(super) rate: RateChoice,
    pub(super) on_short: OnShort,
    pub(super) keep_tail: bool,
    /// `None` for lossless.
    pub(super) crf: Option<u8>,
    pub(super) x264_preset: String,
    pub(super) exact_audio: bool,
    pub(super) allow_no_face: bool,
    pub(super) workers: usize,
    pub(super) threads_per_worker: usize,
    pub(super) chunk_frames: ChunkFrames,
    pub(super) analyze_frames: ChunkFrames,
    pub(super) nats: Option<String>,
    pub(super) nats_server: Option<PathBuf>,
    pub(super) work_dir: PathBuf,
    pub(super) keep: bool,
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
        let (preset_steps, preset_guidance) = match args.preset {
            Preset::Lean => (1, 1.0),
            Preset::Standard => (20, 1.0),
            Preset::High => (3, 1.5),
            Preset::Best => (20, 1.5),
        };
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
        let workers = args.workers.unwrap_or(if cores <= 2 { 1 } else { 2 });
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(SettingsError::Workers(workers));
        }
        let weights = args.weights.ok_or(SettingsError::NoWeights)?;
        let target = OutputTarget::check(&args.output, args.force)?;
        let work_dir = args.work_dir.unwrap_or_else(|| {
            let mut name = args.output.clone().into_os_string();
            name.push(".latentfarm");
            name.into()
        });
        Ok(Self {
            video: args.video,
            audio: args.audio,
            target,
            force: args.force,
            weights,
            steps,
            guidance_scale,
            seed: args.seed,
            audio_windows: match args.audio_windows {
                AudioWindowsArg::Overlapping => AudioWindows::Overlapping,
                AudioWindowsArg::Reference => AudioWindows::Reference,
            },
            silence: match args.silence {
                SilenceArg::Keep => SilenceMode::Keep,
                SilenceArg::Close => SilenceMode::Close,
                SilenceArg::Off => SilenceMode::Off,
            },
            rate,
            on_short: match args.on_short {
                args::OnShort::Bounce => OnShort::Bounce,
                args::OnShort::Loop => OnShort::Loop,
                args::OnShort::Hold => OnShort::Hold,
                args::OnShort::Cut => OnShort::Cut,
            },
            keep_tail: args.keep_tail,
            crf: (!args.lossless).then_some(args.crf),
            x264_preset: args.x264_preset,
            exact_audio: args.exact_audio,
            allow_no_face: args.allow_no_face,
            workers,
            threads_per_worker: (cores / workers).max(1),
            chunk_frames: ChunkFrames::new(args.chunk_frames)?,
            analyze_frames: ChunkFrames::new(ANALYZE_FRAMES)?,
            nats: args.nats,
            nats_server: args.nats_server,
            work_dir,
            keep: args.keep,
            dry_run: args.dry_run,
            json: args.json,
        })
    }
}
