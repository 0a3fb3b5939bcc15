//! The options of a job, which `latentfarm render` and `latentfarm submit` share: its inputs, its output, and
//! everything that the frames depend on. The doc comments are the help texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ValueEnum, value_parser};
use latentfarm_common::media::{AudioOffset, TrackChoice};
use latentfarm_common::tags::Tag;
use latentfarm_common::wire::job::{AudioWindows, SilenceMode};

use crate::dispatch::{CpuFallback, OneKind};
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

/// A named choice of denoising steps and guidance scale. Each variant's comment is its help on the command
/// line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Preset {
    /// 1 step, no guidance: least memory and time
    Lean,
    /// 20 steps, or those that the weights were trained for; no guidance
    Standard,
    /// 3 steps, guidance 1.5
    High,
    /// 20 steps, guidance 1.5
    Best,
}

impl Preset {
    /// Returns the denoising steps and the guidance scale of the preset; a scale of 1 turns guidance off.
    pub(in crate::cli) fn sampling(self) -> (u32, f32) {
        match self {
            Self::Lean => (1, 1.0),
            Self::Standard => (20, 1.0),
            Self::High => (3, 1.5),
            Self::Best => (20, 1.5),
        }
    }
}

#[derive(clap::Args, Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub(in crate::cli) struct JobArgs {
    /// Video of a talking face: H.264 or HEVC in MP4, MKV or MOV, 8 bit 4:2:0
    pub(in crate::cli) video: PathBuf,
    /// Speech: any sound file, or a video whose sound is used
    pub(in crate::cli) audio: PathBuf,
    /// Where to write the result: .mp4 or .mkv
    #[arg(short, long, value_name = "OUT")]
    pub(in crate::cli) output: PathBuf,
    /// Replace OUT if it exists, and discard the unfinished job of other inputs or settings in its job folder
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// Folder with the model weights (default on this machine alone: the demo weights that come with latentfarm)
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS", help_heading = "Model")]
    pub(in crate::cli) weights: Option<PathBuf>,
    /// Number of denoising steps, and guidance scale
    #[arg(long, value_enum, default_value = "standard", help_heading = "Model")]
    pub(in crate::cli) preset: Preset,
    /// Denoising steps, 1 to 1000, instead of the preset's
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1000), help_heading = "Model")]
    pub(in crate::cli) steps: Option<u32>,
    /// Guidance scale (CFG), 0 to 20, instead of the preset's; at most 1 turns guidance off
    #[arg(long, value_name = "SCALE", help_heading = "Model")]
    pub(in crate::cli) guidance: Option<f32>,
    /// Seed of all noise; equal seeds give equal frames
    #[arg(long, default_value_t = 1247, help_heading = "Model")]
    pub(in crate::cli) seed: u64,
    /// How the speech is cut into the 30 s pieces that Whisper encodes
    #[arg(long, value_enum, default_value = "overlapping", help_heading = "Model")]
    pub(in crate::cli) audio_windows: AudioWindows,
    /// How the mouth is drawn in pauses of the speech of about half a second or more
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        default_value = "off",
        help_heading = "Model"
    )]
    pub(in crate::cli) silence: SilenceMode,
    /// Output frame rate: N, N/D, a decimal number such as 29.97, or `source`
    #[arg(long, value_name = "RATE", default_value = "25", help_heading = "Timing")]
    pub(in crate::cli) fps: String,
    /// What to do if the video ends before the speech
    #[arg(long, value_enum, default_value = "bounce", help_heading = "Timing")]
    pub(in crate::cli) on_short: OnShort,
    /// Audio track of AUDIO by number (from 1), language or title (default: the first marked as default)
    #[arg(long, value_name = "N|LANG|TITLE", help_heading = "Timing")]
    pub(in crate::cli) audio_track: Option<TrackChoice>,
    /// Play the sound later by so many seconds, or earlier if negative: 0.25, -1.5
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "0",
        allow_negative_numbers = true,
        help_heading = "Timing"
    )]
    pub(in crate::cli) audio_offset: AudioOffset,
    /// Keep the part of the video after the end of the speech, unchanged
    #[arg(long, help_heading = "Timing")]
    pub(in crate::cli) keep_tail: bool,
    /// libx264 constant rate factor, 0 to 51
    #[arg(
        long,
        default_value_t = 18,
        value_parser = value_parser!(u8).range(0..=51),
        help_heading = "Encoding"
    )]
    pub(in crate::cli) crf: u8,
    /// Encode without loss: every pixel outside the mouth's mask equals the decoded source
    #[arg(long, conflicts_with = "crf", help_heading = "Encoding")]
    pub(in crate::cli) lossless: bool,
    /// libx264 preset: slower ones make smaller files
    #[arg(
        long,
        value_name = "NAME",
        default_value = "medium",
        value_parser = X264_PRESETS,
        help_heading = "Encoding"
    )]
    pub(in crate::cli) x264_preset: String,
    /// Transcode the sound so that it ends exactly with the video, instead of copying its packets
    #[arg(long, help_heading = "Encoding")]
    pub(in crate::cli) exact_audio: bool,
    /// Write the unchanged video if no face is found in any frame
    #[arg(long, help_heading = "Encoding")]
    pub(in crate::cli) allow_no_face: bool,
    /// Frames of one chunk: a multiple of 16, 16 to 480
    #[arg(long, value_name = "N", default_value_t = 48, help_heading = "Farm")]
    pub(in crate::cli) chunk_frames: u32,
    /// When CPU workers render on a farm that has GPUs
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "last",
        help_heading = "Memory"
    )]
    pub(in crate::cli) cpu_fallback: CpuFallback,
    /// Have machines of one numeric kind render the job, or each shot, as far as the farm has such machines;
    /// others round differently, and the report counts the borders and measures them
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "job",
        help_heading = "Farm"
    )]
    pub(in crate::cli) one_kind: Option<OneKind>,
    /// Give the job only to workers of the farm that have this tag (`latentfarm-worker run --tag`): no other worker reads
    /// anything of it. May be given several times or as a list with commas; a worker must have all of them
    #[arg(long, value_name = "TAG", value_delimiter = ',', help_heading = "Farm")]
    pub(in crate::cli) need_tag: Vec<Tag>,
    /// How long a chunk that fits no live worker waits for one with more free memory, and a job without any
    /// worker, or any with its tags, for one or for room in the farm's storage, before it is given up: `30s`, `10m`, `2h`; waiting
    /// for a worker that is merely busy does not count
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10m",
        value_parser = duration,
        help_heading = "Memory"
    )]
    pub(in crate::cli) unplaceable_wait: Duration,
}

/// Parses a time with a unit of seconds, minutes, hours or days: `30s`, `10m`, `2h`, `7d`.
pub(in crate::cli) fn duration(text: &str) -> Result<Duration, &'static str> {
    let wrong = "not a time such as 30s, 10m, 2h or 7d";
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 24 * 3600,
        _ => return Err(wrong),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong)?;
    let seconds = number.checked_mul(unit).ok_or(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct RenderArgs {
    #[command(flatten)]
    pub(in crate::cli) job: JobArgs,
    /// Worker processes to start on this machine, 1 to 64 (default: one for each GPU, and one on the CPU for what fits
    /// none unless --cpu-fallback is `never`; without a GPU 1 on a machine with 1 or 2 cores, else 2); workers that
    /// share a GPU take turns on it
    #[arg(long, value_name = "N", help_heading = "Farm")]
    pub(in crate::cli) workers: Option<usize>,
    /// Devices of this machine to render on, separated by commas, with one worker for each: auto (every usable GPU, or
    /// the CPU if there is none), cpu, cuda:N, or a GPU's UUID (default: every usable GPU, and the CPU beside them)
    #[arg(long, value_name = "LIST", help_heading = "Farm")]
    pub(in crate::cli) device: Option<String>,
    /// Memory that each worker on this machine leaves free, in MiB (default: that of `latentfarm-worker run`)
    #[arg(long, value_name = "MIB", help_heading = "Farm")]
    pub(in crate::cli) reserve: Option<u64>,
    /// One worker of this machine with its own options, `name=small,device=sim:/tmp/small,reserve=0`: every
    /// option but `name` is passed to `latentfarm-worker run`; may be given several times, instead of
    /// --workers
    #[arg(long, value_name = "SPEC", hide = true, conflicts_with = "workers")]
    pub(in crate::cli) worker: Vec<String>,
    /// Hand the job to the farm at this NATS server, whose coordinator `latentfarm serve` runs, and wait for it,
    /// instead of a private farm on this machine; the environment variable `LATENTFARM_NKEY_SEED` holds the
    /// operator's key
    #[arg(
        long,
        value_name = "URL",
        help_heading = "Farm",
        conflicts_with_all = ["workers", "device", "reserve", "worker", "work_dir", "keep"]
    )]
    pub(in crate::cli) nats: Option<String>,
    /// nats-server program for the private server (2.12 or newer)
    #[arg(
        long,
        value_name = "PATH",
        env = "LATENTFARM_NATS_SERVER",
        help_heading = "Farm"
    )]
    pub(in crate::cli) nats_server: Option<PathBuf>,
    /// Job folder, which keeps the job's state until it is complete (default: OUT.latentfarm)
    #[arg(long, value_name = "DIR", help_heading = "Farm")]
    pub(in crate::cli) work_dir: Option<PathBuf>,
    /// Keep the job folder when the job is complete
    #[arg(long, help_heading = "Farm")]
    pub(in crate::cli) keep: bool,
    /// Check the inputs, print the estimate of time, disk and memory, and stop
    #[arg(long, help_heading = "Output")]
    pub(in crate::cli) dry_run: bool,
    /// Print events and the report as JSON lines on standard output
    #[arg(long, help_heading = "Output")]
    pub(in crate::cli) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("10m").unwrap(), Duration::from_mins(10));
        assert_eq!(duration("2d").unwrap(), Duration::from_hours(48));
        for text in ["", "10", "m", "1w", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
