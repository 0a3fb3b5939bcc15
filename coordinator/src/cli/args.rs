//! Arguments as they are typed. `settings` turns them into what is validated.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use latentfarm_common::ids::WorkerId;
use latentfarm_common::wire::job::{AudioWindows, SilenceMode};

use crate::dispatch::CpuFallback;
use crate::ingest::OnShort;

/// Lip-syncs videos on a farm of mixed machines, or on this one.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Exit codes:
  0 complete   1 failed   2 wrong usage or unusable input   3 incomplete   130 interrupted, can be resumed"
)]
pub struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Render VIDEO with its mouth following AUDIO
    ///
    /// Starts a private nats-server and workers on this machine, renders, stitches, verifies, and leaves
    /// nothing running. The job's state lives in OUT.latentfarm/ until it is complete: after a crash or Ctrl-C
    /// the same command resumes.
    #[command(after_help = "\
Examples:
  latentfarm render talk.mp4 speech.wav -o out.mp4 --weights ~/latentsync
  latentfarm render talk.mp4 speech.wav -o out.mp4 --preset high --workers 4
  latentfarm render talk.mp4 speech.wav -o out.mkv --lossless --fps source
  latentfarm render talk.mp4 speech.wav -o out.mp4 --dry-run")]
    Render(Box<RenderArgs>),
    /// Tell why each chunk of a job is where it is, with its attempts and figures
    ///
    /// Works while the job runs, after it was interrupted, and after it ended where its folder was kept (--keep).
    #[command(after_help = "\
Examples:
  latentfarm explain out.mp4
  latentfarm explain out.mp4.latentfarm r00003
  latentfarm explain out.mp4 3 --json
  latentfarm explain 0123456789abcdef --nats nats://farm:4222

Exit codes: 0 told, 1 failed, 2 no such job or chunk.")]
    Explain(ExplainArgs),
    /// Check that this machine has what a render needs
    #[command(after_help = "Example:\n  latentfarm doctor --weights ~/latentsync")]
    Doctor(DoctorArgs),
    /// Show all workers live: device, memory, task, plan, stage, rate, temperature
    ///
    /// Reads heartbeats and changes nothing. Ctrl-C leaves.
    #[command(after_help = "\
Examples:
  latentfarm top out.mp4
  latentfarm top --nats nats://farm.example:4222
  latentfarm top --nats nats://farm.example:4222 --json")]
    Top(TopArgs),
    /// Measure what is not the model: decoding, encoding, stitching, and what the queue costs a chunk
    ///
    /// Starts a private nats-server and one worker that has nothing to do, and leaves nothing running. The model's
    /// speed is `latentfarm-worker bench`'s.
    #[command(after_help = "\
Examples:
  latentfarm bench
  latentfarm bench --video talk.mp4 --seconds 20
  latentfarm bench --work-dir /srv/farm --chunks 1000 --json

Exit codes: 0 measured, 1 failed, 2 wrong usage or unusable video, 130 interrupted.")]
    Bench(BenchArgs),
    /// Write the configuration of a nats-server for a farm of several machines, and the keys of all who may connect
    ///
    /// Every role has a key of its own and may do only what is its work. Keys that are there already are kept: give the
    /// command again with further workers to add them, and delete a key first to shut its owner out. A running server
    /// takes the change when it is told to reload.
    #[command(after_help = "\
Examples:
  latentfarm nats-config /srv/farm --worker gpu1 --worker gpu2
  nats-server --config /srv/farm/nats.conf
  nats-server --signal reload=/srv/farm/run/nats.pid")]
    NatsConfig(NatsConfigArgs),
}

#[derive(clap::Args, Debug)]
pub(super) struct BenchArgs {
    /// Video to decode and encode (default: made-up pictures of 1280 x 720)
    #[arg(long, value_name = "FILE")]
    pub(super) video: Option<PathBuf>,
    /// Seconds of video at most, 1 to 600
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) seconds: u32,
    /// Chunks to send through the queue, 2 to 10000
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(super) chunks: u32,
    /// Folder for scratch files: its disk is what the queue is measured on (default: the system's for temporary
    /// files)
    #[arg(long, value_name = "DIR")]
    pub(super) work_dir: Option<PathBuf>,
    /// nats-server program to use (2.12 or newer)
    #[arg(long, value_name = "PATH", env = "LATENTFARM_NATS_SERVER")]
    pub(super) nats_server: Option<PathBuf>,
    /// Print the figures as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct NatsConfigArgs {
    /// Folder of the server: its configuration, the keys, and later its data
    pub(super) dir: PathBuf,
    /// A worker that may connect, by the name that it is started with; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(super) worker: Vec<WorkerId>,
    /// Address and port that the server listens at
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4222")]
    pub(super) listen: SocketAddr,
}

#[derive(clap::Args, Debug)]
pub(super) struct ExplainArgs {
    /// Output of the job, or its job folder; with --nats also the job's id
    pub(super) job: PathBuf,
    /// One chunk: its number, or `r00003` for rendering and `a00003` for face analysis
    pub(super) chunk: Option<String>,
    /// Ask the farm at this NATS server for what it recorded of a job
    #[arg(long, value_name = "URL")]
    pub(super) nats: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct TopArgs {
    /// A render on this machine: its OUT or its job folder
    #[arg(required_unless_present = "nats", conflicts_with = "nats")]
    pub(super) job: Option<PathBuf>,
    /// URL of the farm's NATS server
    #[arg(long, value_name = "URL")]
    pub(super) nats: Option<String>,
    /// Listen for one round of heartbeats, print the table once and end
    #[arg(long)]
    pub(super) once: bool,
    /// As --once, as one JSON object a worker
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct DoctorArgs {
    /// Folder with the model weights
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS")]
    pub(super) weights: Option<PathBuf>,
    /// nats-server program to use (2.12 or newer)
    #[arg(long, value_name = "PATH", env = "LATENTFARM_NATS_SERVER")]
    pub(super) nats_server: Option<PathBuf>,
}

/// Guidance and number of denoising steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Preset {
    /// 1 step, no guidance: least memory and time
    Lean,
    /// 20 steps, no guidance
    Standard,
    /// 3 steps, guidance 1.5
    High,
    /// 20 steps, guidance 1.5
    Best,
}

impl Preset {
    /// Denoising steps and guidance scale.
    pub(super) fn schedule(self) -> (u32, f32) {
        match self {
            Self::Lean => (1, 1.0),
            Self::Standard => (20, 1.0),
            Self::High => (3, 1.5),
            Self::Best => (20, 1.5),
        }
    }
}

#[derive(clap::Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub(super) struct RenderArgs {
    /// Video of a talking face: H.264 or HEVC in MP4, MKV or MOV, 8 bit 4:2:0
    pub(super) video: PathBuf,
    /// Speech: any sound file, or a video whose sound is taken
    pub(super) audio: PathBuf,
    /// Where to write the result: .mp4 or .mkv
    #[arg(short, long, value_name = "OUT")]
    pub(super) output: PathBuf,
    /// Replace OUT if it exists, and discard another unfinished job in its job folder
    #[arg(long)]
    pub(super) force: bool,

    /// Folder with the model weights
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS", help_heading = "Model")]
    pub(super) weights: Option<PathBuf>,
    /// Steps and guidance
    #[arg(long, value_enum, default_value = "standard", help_heading = "Model")]
    pub(super) preset: Preset,
    /// Denoising steps, 1 to 1000, instead of the preset's
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(super) steps: Option<u32>,
    /// Guidance scale (CFG); at most 1 turns it off
    #[arg(long, value_name = "SCALE", help_heading = "Model")]
    pub(super) guidance: Option<f32>,
    /// Seed of all noise; equal seeds give equal frames
    #[arg(long, default_value_t = 1247, help_heading = "Model")]
    pub(super) seed: u64,
    /// How the speech is cut into the 30 s pieces that Whisper encodes
    #[arg(long, value_enum, default_value = "overlapping", help_heading = "Model")]
    pub(super) audio_windows: AudioWindows,
    /// What becomes of the mouth in pauses of the speech of about half a second or more
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        default_value = "off",
        help_heading = "Model"
    )]
    pub(super) silence: SilenceMode,

    /// Output frame rate: N, N/D, or `source`
    #[arg(long, value_name = "RATE", default_value = "25", help_heading = "Timing")]
    pub(super) fps: String,
    /// What to do where the video ends before the speech
    #[arg(long, value_enum, default_value = "bounce", help_heading = "Timing")]
    pub(super) on_short: OnShort,
    /// Keep the part of the video after the end of the speech, untouched
    #[arg(long, help_heading = "Timing")]
    pub(super) keep_tail: bool,

    /// libx264 constant rate factor, 0 to 51
    #[arg(long, default_value_t = 18, help_heading = "Encoding")]
    pub(super) crf: u8,
    /// Encode without loss: every pixel outside the mouth's mask stays as it was decoded
    #[arg(long, conflicts_with = "crf", help_heading = "Encoding")]
    pub(super) lossless: bool,
    /// libx264 preset
    #[arg(
        long,
        value_name = "NAME",
        default_value = "medium",
        help_heading = "Encoding"
    )]
    pub(super) x264_preset: String,
    /// Transcode the sound so that it ends exactly with the picture, instead of copying its packets
    #[arg(long, help_heading = "Encoding")]
    pub(super) exact_audio: bool,
    /// Write the untouched picture where no face is found in the whole video
    #[arg(long, help_heading = "Encoding")]
    pub(super) allow_no_face: bool,

    /// Worker processes to start on this machine (default: 1 for 2 cores or less, else 2)
    #[arg(long, value_name = "N", help_heading = "Farm")]
    pub(super) workers: Option<usize>,
    /// Frames of one chunk: a multiple of 16, 16 to 480
    #[arg(long, value_name = "N", default_value_t = 48, help_heading = "Farm")]
    pub(super) chunk_frames: u32,
    /// Device of each worker on this machine: auto, cpu, cuda:N, or a GPU's UUID (default: the worker's own)
    #[arg(long, value_name = "DEVICE", help_heading = "Farm")]
    pub(super) device: Option<String>,
    /// Memory that each worker on this machine never uses, in MiB (default: the worker's own)
    #[arg(long, value_name = "MIB", help_heading = "Farm")]
    pub(super) reserve: Option<u64>,
    /// One worker of this machine with options of its own, `name=small,device=sim:/tmp/small,reserve=0`: each
    /// but `name` and `threads` is passed to `latentfarm-worker run`; instead of --workers
    #[arg(long, value_name = "SPEC", hide = true, conflicts_with = "workers")]
    pub(super) worker: Vec<String>,
    /// When the CPU renders on a farm that has GPUs
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "last",
        help_heading = "Memory"
    )]
    pub(super) cpu_fallback: CpuFallback,
    /// How long a chunk that fits no live worker waits for a bigger one: `30s`, `10m`, `2h`
    #[arg(long, value_name = "TIME", default_value = "10m", help_heading = "Memory")]
    pub(super) unplaceable_wait: String,
    /// Use the farm at this NATS server instead of a private one on this machine; `LATENTFARM_NKEY_SEED` holds the
    /// coordinator's key
    #[arg(long, value_name = "URL", help_heading = "Farm")]
    pub(super) nats: Option<String>,
    /// nats-server program for the private server (2.12 or newer)
    #[arg(
        long,
        value_name = "PATH",
        env = "LATENTFARM_NATS_SERVER",
        help_heading = "Farm"
    )]
    pub(super) nats_server: Option<PathBuf>,
    /// Job folder (default: OUT.latentfarm)
    #[arg(long, value_name = "DIR", help_heading = "Farm")]
    pub(super) work_dir: Option<PathBuf>,
    /// Keep the job folder when the job is complete
    #[arg(long, help_heading = "Farm")]
    pub(super) keep: bool,

    /// Print the estimate and stop
    #[arg(long, help_heading = "Output")]
    pub(super) dry_run: bool,
    /// Print events and the report as JSON lines on standard output
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}
