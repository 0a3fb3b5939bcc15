//! The command line of `latentfarm` as `clap` parses it. Each subcommand reads its own arguments once, when
//! it starts; `settings` turns those of `render` into validated settings. The doc comments are the help
//! texts.

mod farm;
mod job;
mod server;

use std::path::PathBuf;

use clap::{Parser, Subcommand, value_parser};
use latentfarm_common::media::TrackChoice;

pub(super) use farm::{
    BatchArgs, ControlArgs, DrainArgs, FetchArgs, JobsArgs, LineArgs, ServeArgs, SetArgs, ShareWeightsArgs,
    StatusArgs, SubmitArgs, SubmittedArgs, SubmittedJob,
};
pub(super) use job::{JobArgs, Preset, RenderArgs};
pub(super) use server::{AuditArgs, BackupArgs, InviteArgs, NatsConfigArgs, RestoreArgs, RevokeArgs};

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
    /// Coordinate a farm: take jobs, dispatch them over its workers, and keep what is finished
    ///
    /// Runs until it is interrupted. The farm's NATS server has all that the jobs need: after a crash or a
    /// restart, here or on another machine, the same command goes on with them.
    #[command(after_help = "\
Examples:
  latentfarm serve --dir /srv/farm --host farm.example
  latentfarm serve --nats nats://farm.example:4222 --dir /srv/farm/coordinator
  latentfarm serve --nats nats://farm.example:4222 --dir /srv/farm/standby --standby

Exit codes: 0 interrupted in order, 1 failed, 2 wrong usage.")]
    Serve(ServeArgs),
    /// Hand a job, or a file of jobs, to the coordinator of a farm
    ///
    /// Checks the inputs and stores them on the farm, which renders what is stored already meanwhile. Ends when
    /// all is stored, or with --wait when OUT is written. The same command again goes on with the same job.
    #[command(after_help = "\
Examples:
  latentfarm submit talk.mp4 speech.wav -o out.mp4 --weights ~/latentsync --nats nats://farm.example:4222
  latentfarm submit talk.mp4 speech.wav -o out.mp4 --nats nats://farm.example:4222 --priority 0 --wait
  latentfarm submit talk.mp4 speech.wav -o out.mp4 --nats nats://farm.example:4222 --need-tag eu
  latentfarm submit --batch jobs.jsonl --nats nats://farm.example:4222

Exit codes: 0 handed over, or complete with --wait; 1 failed, 2 wrong usage or unusable input, 3 incomplete (also:
lines were left out), 130 interrupted.")]
    Submit(Box<SubmitArgs>),
    /// List the jobs of a farm, the newest first
    #[command(after_help = "\
Examples:
  latentfarm jobs --nats nats://farm.example:4222
  latentfarm jobs --nats nats://farm.example:4222 --phase running --phase queued
  latentfarm jobs --nats nats://farm.example:4222 --text talk --json")]
    Jobs(JobsArgs),
    /// Show how a job of a farm stands, and what it waits for
    #[command(after_help = "\
Examples:
  latentfarm status 0123456789abcdef --nats nats://farm.example:4222
  latentfarm status 0123456789abcdef --nats nats://farm.example:4222 --wait

Exit codes: 0 not over yet or complete, 1 failed, 2 no such job, 3 over and not complete.")]
    Status(StatusArgs),
    /// Show what happens to a job of a farm, until it is over
    #[command(after_help = "\
Examples:
  latentfarm watch 0123456789abcdef --nats nats://farm.example:4222
  latentfarm watch 0123456789abcdef --nats nats://farm.example:4222 --json

Exit codes: 0 complete, 1 failed, 2 no such job, 3 over and not complete, 130 interrupted; the farm goes on with
the job.")]
    Watch(ControlArgs),
    /// Let a job of a farm rest: what runs is finished, and nothing more of it begins
    #[command(after_help = "Example:\n  latentfarm pause 0123456789abcdef --nats nats://farm.example:4222")]
    Pause(ControlArgs),
    /// Go on with a job that was paused
    #[command(after_help = "Example:\n  latentfarm resume 0123456789abcdef --nats nats://farm.example:4222")]
    Resume(ControlArgs),
    /// End a job of a farm without a result; what is rendered of it is kept for the case that it is submitted again
    #[command(after_help = "Example:\n  latentfarm cancel 0123456789abcdef --nats nats://farm.example:4222")]
    Cancel(ControlArgs),
    /// Render again what is missing of a job that is over
    ///
    /// What is done of it stays done, and its inputs need not be there any more. Of a complete job, what the farm's store has
    /// lost or damaged is rendered again.
    #[command(after_help = "Example:\n  latentfarm retry 0123456789abcdef --nats nats://farm.example:4222")]
    Retry(ControlArgs),
    /// Forget a job that is over, with its results
    #[command(after_help = "Example:\n  latentfarm delete 0123456789abcdef --nats nats://farm.example:4222")]
    Delete(ControlArgs),
    /// Change the priority of a job
    #[command(
        after_help = "Example:\n  latentfarm set 0123456789abcdef --priority 0 --nats nats://farm.example:4222"
    )]
    Set(SetArgs),
    /// Write the output of a complete job of a farm
    #[command(
        after_help = "Example:\n  latentfarm fetch 0123456789abcdef -o out.mp4 --nats nats://farm.example:4222"
    )]
    Fetch(FetchArgs),
    /// Let a worker of a farm finish what it has begun, and then end
    ///
    /// Returns when it has left the farm. What it held and had not begun goes to other workers. It joins again when it is
    /// started again.
    #[command(after_help = "\
Examples:
  latentfarm drain gpu1 --nats nats://farm.example:4222
  latentfarm drain gpu1 --nats nats://farm.example:4222 --no-wait

Exit codes: 0 it has left, or is asked to with --no-wait; 1 failed, 2 no such worker, 130 interrupted; it ends all the
same.")]
    Drain(DrainArgs),
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
    /// Measure whether the lips in VIDEO follow its speech, or that of AUDIO, and by how much they are late
    ///
    /// An indicator of timing, not of picture quality: the opening of the inner lips is compared with the loudness of
    /// the speech. A real video of a talking person correlates with its own sound by 0.3 to 0.6; a few seconds are too
    /// short to tell.
    #[command(after_help = "\
Examples:
  latentfarm sync out.mp4
  latentfarm sync talk.mp4 speech.wav --json
  latentfarm sync out.mp4 --html sync.html

Exit codes: 0 measured, 1 failed, 2 no face, no speech or otherwise unusable input, 130 interrupted.")]
    Sync(SyncArgs),
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
    /// Every role has a key of its own and may do only what its work requires. Existing keys are kept, and so is a
    /// configuration that is there already. `latentfarm invite` admits machines later, and `latentfarm revoke` shuts them
    /// out. Given again, this command leaves out the keys that have expired, which a running server applies when it is
    /// sent the reload signal.
    #[command(after_help = "\
Examples:
  latentfarm nats-config /srv/farm --worker gpu1 --worker gpu2
  nats-server --config /srv/farm/nats.conf
  nats-server --signal reload=/srv/farm/run/nats.pid")]
    NatsConfig(NatsConfigArgs),
    /// Admit a machine to a farm: make a key for its workers, and write a join file
    ///
    /// Runs on the machine of the farm's server, in the folder of `latentfarm serve` or of `latentfarm nats-config`; a
    /// running server admits the machine at once. The join file has all that the new machine needs to connect: the
    /// address, the certificate and the key. Whoever has it can work for the farm under that name.
    #[command(after_help = "\
Examples:
  latentfarm invite gpu1 --dir /srv/farm
  latentfarm invite gpu1 --dir /srv/farm -o gpu1.join --valid 30d --tag eu --url tls://farm.example:4222

Exit codes: 0 the join file is written, 1 failed, 2 the name or the folder cannot be used.")]
    Invite(InviteArgs),
    /// Shut a machine out of a farm: remove the key of its workers
    ///
    /// Runs where `latentfarm invite` runs. A running server closes the connections of the machine's workers at once, and
    /// takes nothing of them any more; what they were rendering goes to other workers.
    #[command(after_help = "\
Example:
  latentfarm revoke gpu1 --dir /srv/farm

Exit codes: 0 it is shut out, 1 failed, 2 no such machine.")]
    Revoke(RevokeArgs),
    /// Store a folder of weights on a farm, once, for workers with `--weights auto`, which find it by its digest
    #[command(after_help = "\
Example:
  latentfarm share-weights ~/latentsync --nats nats://farm.example:4222

Exit codes: 0 shared, 1 failed, 2 unusable weights.")]
    ShareWeights(ShareWeightsArgs),
    /// Look whether what a farm has stored holds together
    ///
    /// Reads jobs, done records, tasks and blobs, and changes nothing. A farm at work is looked at twice, and what both looks
    /// find is printed.
    #[command(after_help = "\
Examples:
  latentfarm audit --nats nats://farm.example:4222
  latentfarm audit --nats nats://farm.example:4222 --verify --json

Exit codes: 0 all holds together, 1 failed, 3 something does not.")]
    Audit(AuditArgs),
    /// Copy what a farm knows of its jobs, and what it has stored of them, into a file
    ///
    /// The farm may work meanwhile. Weights that it shares, and the keys of its machines, are not copied.
    #[command(after_help = "\
Examples:
  latentfarm backup farm.backup --nats nats://farm.example:4222
  latentfarm backup farm.backup --nats nats://farm.example:4222 --no-media

Exit codes: 0 written, 1 failed, 130 interrupted; FILE is written whole or not at all.")]
    Backup(BackupArgs),
    /// Fill a new farm with the backup of another, which it goes on with
    ///
    /// Checks the whole backup before it changes anything. The farm has no coordinator at work and no jobs, or those that
    /// an interrupted restoration of the same backup left.
    #[command(after_help = "\
Examples:
  latentfarm restore farm.backup --dir /srv/farm2
  latentfarm restore farm.backup --nats nats://farm.example:4222

Exit codes: 0 restored, 1 failed, 2 an unusable backup or a farm in use, 130 interrupted; the same command goes on.")]
    Restore(RestoreArgs),
    /// Look at segments for a coordinator, which starts this process
    #[command(hide = true)]
    CheckSegments,
}

impl Command {
    /// Whether an error is told as a JSON line too.
    pub(super) fn prints_json(&self) -> bool {
        match self {
            Self::Render(args) => args.json,
            Self::Submit(args) => args.json,
            Self::Fetch(args) => args.json,
            Self::Sync(args) => args.json,
            Self::Audit(args) => args.json,
            Self::Serve(_)
            | Self::Jobs(_)
            | Self::Status(_)
            | Self::Watch(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Cancel(_)
            | Self::Retry(_)
            | Self::Delete(_)
            | Self::Set(_)
            | Self::Drain(_)
            | Self::Explain(_)
            | Self::Doctor(_)
            | Self::Top(_)
            | Self::Bench(_)
            | Self::NatsConfig(_)
            | Self::Invite(_)
            | Self::Revoke(_)
            | Self::ShareWeights(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::CheckSegments => false,
        }
    }
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
pub(super) struct SyncArgs {
    /// Video whose lips are measured
    pub(super) video: PathBuf,
    /// File with the speech, which begins with the first frame (default: the sound of VIDEO)
    pub(super) audio: Option<PathBuf>,
    /// Audio track of that file by number (from 1), language or title (default: the first marked as default)
    #[arg(long, value_name = "N|LANG|TITLE")]
    pub(super) audio_track: Option<TrackChoice>,
    /// Media processes that look for faces, 1 to 64 (default: one for each core, at most 8)
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=64))]
    pub(super) processes: Option<u8>,
    /// Print the measurement as one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Also write a page with the curves of lips and loudness
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
pub(super) struct DoctorArgs {
    /// Folder with the model weights (default: the demo weights that come with latentfarm)
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS")]
    pub(super) weights: Option<PathBuf>,
    /// nats-server program to use (2.12 or newer)
    #[arg(long, value_name = "PATH", env = "LATENTFARM_NATS_SERVER")]
    pub(super) nats_server: Option<PathBuf>,
}
