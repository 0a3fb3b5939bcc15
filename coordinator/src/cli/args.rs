//! The command line of `latentfarm` as `clap` parses it. Each subcommand reads its own arguments once, when
//! it starts; `settings` turns those of `render` into validated settings. The doc comments are the help
//! texts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum, value_parser};
use latentfarm_common::ids::WorkerId;
use latentfarm_common::media::{AudioOffset, TrackChoice};
use latentfarm_common::wire::job::{AudioWindows, SilenceMode};

use crate::dispatch::CpuFallback;
use crate::ingest::OnShort;

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

/// Lip-syncs videos on a farm of mixed machines, or on this one.
#[derive(Parser, Debug)]
#[command(
    name = "latentfarm",
    version,
    after_help = "\
Exit codes:
  0 complete   1 failed   2 wrong usage or unusable input   3 incomplete   130 interrupted, can be resumed"
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Render VIDEO with its mouth following AUDIO
    ///
    /// Starts a private nats-server and workers on this machine, renders, joins and verifies the result, and
    /// leaves nothing running. The job's state is kept in OUT.latentfarm/ until the job is complete: after a
    /// crash or Ctrl-C the same command resumes it.
    #[command(after_help = "\
Examples:
  latentfarm render talk.mp4 speech.wav -o out.mp4 --weights ~/latentsync
  latentfarm render talk.mp4 speech.wav -o out.mp4 --preset high --workers 4
  latentfarm render talk.mp4 speech.wav -o out.mkv --lossless --fps source
  latentfarm render talk.mp4 speech.wav -o out.mp4 --dry-run")]
    Render(Box<RenderArgs>),
    /// Explain where each chunk of a job is and why, with its attempts and memory figures
    ///
    /// Works while the job runs, after it was interrupted, and after it ended if its folder was kept
    /// (--keep).
    #[command(after_help = "\
Examples:
  latentfarm explain out.mp4
  latentfarm explain out.mp4.latentfarm r00003
  latentfarm explain out.mp4 3 --json
  latentfarm explain 0123456789abcdef --nats nats://farm:4222

Exit codes: 0 explained, 1 failed, 2 no such job or chunk.")]
    Explain(ExplainArgs),
    /// Check that this machine has what a render needs
    #[command(after_help = "Example:\n  latentfarm doctor --weights ~/latentsync")]
    Doctor(DoctorArgs),
    /// Show all workers live: device, memory, task, plan, stage, rate, temperature
    ///
    /// Reads the workers' heartbeats and changes nothing. Ctrl-C ends it.
    #[command(after_help = "\
Examples:
  latentfarm top out.mp4
  latentfarm top --nats nats://farm.example:4222
  latentfarm top --nats nats://farm.example:4222 --json")]
    Top(TopArgs),
    /// Measure everything but the model: decoding, encoding, stitching, and the time that the queue adds to a
    /// chunk
    ///
    /// Starts a private nats-server and one worker that completes its tasks without rendering, and leaves
    /// nothing running. `latentfarm-worker bench` measures the model.
    #[command(after_help = "\
Examples:
  latentfarm bench
  latentfarm bench --video talk.mp4 --seconds 20
  latentfarm bench --work-dir /srv/farm --chunks 1000 --json

Exit codes: 0 measured, 1 failed, 2 wrong usage or unusable video, 130 interrupted.")]
    Bench(BenchArgs),
    /// Write the configuration of a nats-server for a farm of several machines, and the keys of all who may
    /// connect
    ///
    /// Every role has a key of its own and may do only what its work requires. Existing keys are kept: give
    /// the command again with further workers to add them; to shut a worker out, delete its key first. A
    /// running server applies the change when it is sent the reload signal.
    #[command(after_help = "\
Examples:
  latentfarm nats-config /srv/farm --worker gpu1 --worker gpu2
  nats-server --config /srv/farm/nats.conf
  nats-server --signal reload=/srv/farm/run/nats.pid")]
    NatsConfig(NatsConfigArgs),
}

#[derive(clap::Args, Debug)]
pub(super) struct BenchArgs {
    /// Video to decode and encode (default: a test pattern of 1280 x 720)
    #[arg(long, value_name = "FILE")]
    pub(super) video: Option<PathBuf>,
    /// Seconds of video to use at most, 1 to 600
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=600))]
    pub(super) seconds: u32,
    /// Chunks to send through the queue, 2 to 10000
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = value_parser!(u32).range(2..=10_000))]
    pub(super) chunks: u32,
    /// Folder for scratch files; the queue is measured on its disk (default: the system's folder for
    /// temporary files)
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
    /// Name of a worker that may connect, as in `latentfarm-worker run --name`; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(super) worker: Vec<WorkerId>,
    /// Address and port that the server listens on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4222")]
    pub(super) listen: SocketAddr,
}

#[derive(clap::Args, Debug)]
pub(super) struct ExplainArgs {
    /// Output file of the job, or its job folder; with --nats also the job's id
    pub(super) job: PathBuf,
    /// One chunk: its number, or `r00003` for rendering and `a00003` for face analysis
    pub(super) chunk: Option<String>,
    /// Read what the farm at this NATS server recorded of the job
    #[arg(long, value_name = "URL")]
    pub(super) nats: Option<String>,
    /// Print the history as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct TopArgs {
    /// A render on this machine: its output file or its job folder
    #[arg(required_unless_present = "nats", conflicts_with = "nats")]
    pub(super) job: Option<PathBuf>,
    /// URL of the farm's NATS server
    #[arg(long, value_name = "URL")]
    pub(super) nats: Option<String>,
    /// Wait for one heartbeat of every worker (about 5 s), print the table once and end
    #[arg(long)]
    pub(super) once: bool,
    /// Like --once, but print one JSON object per worker
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

/// A named choice of denoising steps and guidance scale. Each variant's comment is its help on the command
/// line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Preset {
    /// 1 step, no guidance: least memory and time
    Lean,
    /// 20 steps, no guidance: half the work of `best`
    Standard,
    /// 3 steps, guidance 1.5
    High,
    /// 20 steps, guidance 1.5
    Best,
}

impl Preset {
    /// Returns the denoising steps and the guidance scale of the preset; a scale of 1 turns guidance off.
    pub(super) fn sampling(self) -> (u32, f32) {
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
    /// Speech: any sound file, or a video whose sound is used
    pub(super) audio: PathBuf,
    /// Where to write the result: .mp4 or .mkv
    #[arg(short, long, value_name = "OUT")]
    pub(super) output: PathBuf,
    /// Replace OUT if it exists, and discard the unfinished job of other inputs or settings in its job folder
    #[arg(long)]
    pub(super) force: bool,

    /// Folder with the model weights
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS", help_heading = "Model")]
    pub(super) weights: Option<PathBuf>,
    /// Number of denoising steps, and guidance scale
    #[arg(long, value_enum, default_value = "standard", help_heading = "Model")]
    pub(super) preset: Preset,
    /// Denoising steps, 1 to 1000, instead of the preset's
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1000), help_heading = "Model")]
    pub(super) steps: Option<u32>,
    /// Guidance scale (CFG), 0 to 20, instead of the preset's; at most 1 turns guidance off
    #[arg(long, value_name = "SCALE", help_heading = "Model")]
    pub(super) guidance: Option<f32>,
    /// Seed of all noise; equal seeds give equal frames
    #[arg(long, default_value_t = 1247, help_heading = "Model")]
    pub(super) seed: u64,
    /// How the speech is cut into the 30 s pieces that Whisper encodes
    #[arg(long, value_enum, default_value = "overlapping", help_heading = "Model")]
    pub(super) audio_windows: AudioWindows,
    /// How the mouth is drawn in pauses of the speech of about half a second or more
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        default_value = "off",
        help_heading = "Model"
    )]
    pub(super) silence: SilenceMode,

    /// Output frame rate: N, N/D, a decimal number such as 29.97, or `source`
    #[arg(long, value_name = "RATE", default_value = "25", help_heading = "Timing")]
    pub(super) fps: String,
    /// What to do if the video ends before the speech
    #[arg(long, value_enum, default_value = "bounce", help_heading = "Timing")]
    pub(super) on_short: OnShort,
    /// Audio track of AUDIO by number (from 1), language or title (default: the first marked as default)
    #[arg(long, value_name = "N|LANG|TITLE", help_heading = "Timing")]
    pub(super) audio_track: Option<TrackChoice>,
    /// Play the sound later by so many seconds, or earlier if negative: 0.25, -1.5
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "0",
        allow_negative_numbers = true,
        help_heading = "Timing"
    )]
    pub(super) audio_offset: AudioOffset,
    /// Keep the part of the video after the end of the speech, unchanged
    #[arg(long, help_heading = "Timing")]
    pub(super) keep_tail: bool,

    /// libx264 constant rate factor, 0 to 51
    #[arg(
        long,
        default_value_t = 18,
        value_parser = value_parser!(u8).range(0..=51),
        help_heading = "Encoding"
    )]
    pub(super) crf: u8,
    /// Encode without loss: every pixel outside the mouth's mask equals the decoded source
    #[arg(long, conflicts_with = "crf", help_heading = "Encoding")]
    pub(super) lossless: bool,
    /// libx264 preset: slower ones make smaller files
    #[arg(
        long,
        value_name = "NAME",
        default_value = "medium",
        value_parser = X264_PRESETS,
        help_heading = "Encoding"
    )]
    pub(super) x264_preset: String,
    /// Transcode the sound so that it ends exactly with the video, instead of copying its packets
    #[arg(long, help_heading = "Encoding")]
    pub(super) exact_audio: bool,
    /// Write the unchanged video if no face is found in any frame
    #[arg(long, help_heading = "Encoding")]
    pub(super) allow_no_face: bool,

    /// Worker processes to start on this machine, 1 to 64 (default: 1 on a machine with 1 or 2 cores, else 2)
    #[arg(long, value_name = "N", help_heading = "Farm")]
    pub(super) workers: Option<usize>,
    /// Frames of one chunk: a multiple of 16, 16 to 480
    #[arg(long, value_name = "N", default_value_t = 48, help_heading = "Farm")]
    pub(super) chunk_frames: u32,
    /// Device of each worker on this machine: auto, cpu, cuda:N, or a GPU's UUID (default: that of
    /// `latentfarm-worker run`)
    #[arg(long, value_name = "DEVICE", help_heading = "Farm")]
    pub(super) device: Option<String>,
    /// Memory that each worker on this machine leaves free, in MiB (default: that of `latentfarm-worker run`)
    #[arg(long, value_name = "MIB", help_heading = "Farm")]
    pub(super) reserve: Option<u64>,
    /// One worker of this machine with its own options, `name=small,device=sim:/tmp/small,reserve=0`: every
    /// option but `name` is passed to `latentfarm-worker run`; may be given several times, instead of
    /// --workers
    #[arg(long, value_name = "SPEC", hide = true, conflicts_with = "workers")]
    pub(super) worker: Vec<String>,
    /// When CPU workers render on a farm that has GPUs
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "last",
        help_heading = "Memory"
    )]
    pub(super) cpu_fallback: CpuFallback,
    /// How long a chunk that fits no live worker waits for one with more free memory, and a job without any
    /// worker for one or for room in the farm's storage, before it is given up: `30s`, `10m`, `2h`; waiting
    /// for a worker that is merely busy does not count
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10m",
        value_parser = duration,
        help_heading = "Memory"
    )]
    pub(super) unplaceable_wait: Duration,
    /// Use the farm at this NATS server instead of a private one on this machine; the environment variable
    /// `LATENTFARM_NKEY_SEED` holds the coordinator's key
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
    /// Job folder, which keeps the job's state until it is complete (default: OUT.latentfarm)
    #[arg(long, value_name = "DIR", help_heading = "Farm")]
    pub(super) work_dir: Option<PathBuf>,
    /// Keep the job folder when the job is complete
    #[arg(long, help_heading = "Farm")]
    pub(super) keep: bool,

    /// Check the inputs, print the estimate of time, disk and memory, and stop
    #[arg(long, help_heading = "Output")]
    pub(super) dry_run: bool,
    /// Print events and the report as JSON lines on standard output
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}

/// Parses a time with a unit of seconds, minutes or hours: `30s`, `10m`, `2h`.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let wrong = "not a time such as 30s, 10m or 2h";
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return Err(wrong),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong)?;
    let seconds = number.checked_mul(unit).ok_or(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("10m").unwrap(), Duration::from_mins(10));
        for text in ["", "10", "m", "1d", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
