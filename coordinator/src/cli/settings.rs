//! Turns the arguments of `latentfarm render` into validated settings. The `render` subcommand calls this
//! once, before it starts anything; an argument that is refused here is exit code 2.

use std::num::NonZero;
use std::path::PathBuf;

use latentfarm_common::error::one_line;
use latentfarm_common::tags::Tags;

use super::args::{JobArgs, Preset, RenderArgs};
use super::argument_error::ArgumentError;
use super::worker_list::WorkerList;
use crate::ingest::{IngestRequest, RateChoice, SEGMENT_LIMITS};
use crate::local::{LocalDevices, PROBE_LIMIT, WorkerOptions, worker_program};
use crate::plan::split::ChunkFrames;
use crate::render::{RenderSettings, StepsChoice, WorkFolder, demo_folder};
use crate::stitch::OutputTarget;

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
    /// How a decimal frame rate was understood, and which devices were chosen.
    pub(super) notes: Vec<String>,
    /// The inputs are examined and the estimate is printed, but nothing is rendered.
    pub(super) dry_run: bool,
    /// Events are printed as JSON lines in place of progress bars.
    pub(super) json: bool,
}

impl RenderCommand {
    pub(super) fn new(args: RenderArgs) -> Result<Self, ArgumentError> {
        let discard_other = args.job.force;
        // The workers of this machine have the tags alone that `--worker` gives them.
        if !args.job.need_tag.is_empty() && args.nats.is_none() && args.worker.is_empty() {
            return Err(ArgumentError::TagsWithoutFarm);
        }
        // What is wrong with the arguments is reported before this machine is examined.
        let JobSettings {
            mut render,
            rate_note,
        } = JobSettings::new(args.job.clone(), || match args.nats {
            Some(_) => Err(ArgumentError::NoWeights),
            None => Ok(demo_folder(&worker_program()?)?),
        })?;
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let WorkerList { workers, notes } = WorkerList::choose(&args, cores, |device| {
            let worker = worker_program().map_err(|error| one_line(&error))?;
            LocalDevices::find(&worker, device, PROBE_LIMIT).map_err(|error| error.to_string())
        })?;
        // A worker on a GPU computes on the host too: it decodes, finds faces and encodes.
        let threads_per_worker = (cores / workers.len()).max(1);
        render.threads = workers.len() * threads_per_worker;
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
            notes: rate_note.into_iter().chain(notes).collect(),
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
    /// `default_weights` finds the folder of weights if the arguments name none. The workers of a farm have
    /// weights of their own, and what is left running there for a night should not be made with demo weights
    /// because of a missing option: only a render on this machine has a default.
    pub(super) fn new(
        args: JobArgs,
        default_weights: impl FnOnce() -> Result<PathBuf, ArgumentError>,
    ) -> Result<Self, ArgumentError> {
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
        let target = OutputTarget::check(&args.output, &[&args.video, &args.audio], args.force)?;
        let weights = args.weights.map_or_else(default_weights, Ok)?;
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
            steps: match (args.steps, args.preset) {
                (Some(steps), _) => StepsChoice::Exactly(steps),
                (None, Preset::Standard) => StepsChoice::OfWeightsOr(preset_steps),
                (None, _) => StepsChoice::Exactly(preset_steps),
            },
            guidance_scale,
            seed: args.seed,
            crf: (!args.lossless).then_some(args.crf),
            x264_preset: args.x264_preset,
            allow_no_face: args.allow_no_face,
            cpu_fallback: args.cpu_fallback,
            one_kind: args.one_kind,
            needed_tags: Tags::new(args.need_tag)?,
            unplaceable_wait: args.unplaceable_wait,
            chunk_frames: ChunkFrames::new(args.chunk_frames)?,
            analyze_frames: ChunkFrames::new(ANALYZE_FRAMES)?,
            // A farm's threads are not known here; `render` sets those of its own workers.
            threads: 1,
            work: None,
        };
        Ok(Self { render, rate_note })
    }
}
