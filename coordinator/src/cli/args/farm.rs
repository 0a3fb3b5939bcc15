//! The options of the commands that run a farm of many jobs or talk to its coordinator. The doc comments are the
//! help texts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, value_parser};
use latentfarm_common::ids::{JobId, WorkerId};
use latentfarm_common::queues::{DEFAULT_PRIORITY, PRIORITIES};

use super::job::{JobArgs, duration};
use crate::farm::{JobPhase, JobSort};

/// The farm that a command talks to.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct FarmArgs {
    /// URL of the farm's NATS server; the environment variable `LATENTFARM_NKEY_SEED` holds the operator's key,
    /// if the server wants one
    #[arg(long, value_name = "URL", env = "LATENTFARM_NATS")]
    pub(in crate::cli) nats: String,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct ShareWeightsArgs {
    /// Folder with the model weights
    #[arg(value_name = "DIR")]
    pub(in crate::cli) weights: PathBuf,
    /// URL of the farm's NATS server; the environment variable `LATENTFARM_NKEY_SEED` holds the coordinator's key, if
    /// the server wants one
    #[arg(long, value_name = "URL", env = "LATENTFARM_NATS")]
    pub(in crate::cli) nats: String,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct ServeArgs {
    /// URL of a NATS server that runs already, or of a cluster of them; the environment variable
    /// `LATENTFARM_NKEY_SEED` holds the coordinator's key, if the server wants one. Without this option the
    /// coordinator starts a server of its own, with keys and certificates in its folder
    #[arg(long, value_name = "URL", env = "LATENTFARM_NATS")]
    pub(in crate::cli) nats: Option<String>,
    /// Folder for the journals of jobs and for temporary files, and for a server of the coordinator's own
    #[arg(long, value_name = "DIR", default_value = "latentfarm-serve")]
    pub(in crate::cli) dir: PathBuf,
    /// Limit of what the farm's store holds, in MiB (default: what the server grants, at most 32 GiB). When room is
    /// short, what complete and fetched jobs have left there is removed first; a job that does not fit is refused
    #[arg(long, value_name = "MIB", value_parser = value_parser!(u64).range(1..), help_heading = "Store")]
    pub(in crate::cli) store_limit: Option<u64>,
    /// How long results are kept for whoever has not fetched them, and what a job that failed needs to be tried
    /// again: `12h`, `7d`
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration, help_heading = "Store")]
    pub(in crate::cli) keep_results: Duration,
    /// How long `latentfarm jobs` lists a job that is over
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = duration, help_heading = "Store")]
    pub(in crate::cli) keep_history: Duration,
    /// Folder below which the coordinator writes the outputs of jobs that were submitted with --deliver
    #[arg(long, value_name = "DIR", help_heading = "Store")]
    pub(in crate::cli) output_root: Option<PathBuf>,
    /// Number of copies that a cluster of NATS servers keeps of everything: 1 or 3 (default: as it is, and 1 on a
    /// new farm)
    #[arg(long, value_name = "N", value_parser = replicas, requires = "nats")]
    pub(in crate::cli) replicas: Option<usize>,
    /// Render one chunk of N again on another worker of the same kind, and compare the frames: a worker that computes
    /// wrong results is found and set aside. 1 checks every chunk, 0 none
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(in crate::cli) spot_check: u32,
    /// Wait while another coordinator is at work on the farm, and take over when it has ended, was killed or is cut off
    /// from the server: at most 20 s later
    #[arg(long, requires = "nats")]
    pub(in crate::cli) standby: bool,
    /// Address and port at which the coordinator's own server listens
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:4222",
        conflicts_with = "nats",
        help_heading = "Own server"
    )]
    pub(in crate::cli) listen: SocketAddr,
    /// Name or address by which other machines reach the own server, for its certificate; may be given several
    /// times (default: the name of this machine)
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "nats",
        help_heading = "Own server"
    )]
    pub(in crate::cli) host: Vec<String>,
    /// Demand a certificate of each client of the own server too, besides its key: join files have one, and other programs
    /// find theirs by the environment variable `LATENTFARM_CLIENT_CERT`
    #[arg(long, conflicts_with = "nats", help_heading = "Own server")]
    pub(in crate::cli) mutual_tls: bool,
    /// Name of a worker that gets a key of the own server, as in `latentfarm-worker run --name`; may be given
    /// several times
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "nats",
        help_heading = "Own server"
    )]
    pub(in crate::cli) worker: Vec<WorkerId>,
    /// nats-server program of the own server (2.12 or newer)
    #[arg(
        long,
        value_name = "PATH",
        env = "LATENTFARM_NATS_SERVER",
        help_heading = "Own server"
    )]
    pub(in crate::cli) nats_server: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct SubmitArgs {
    #[command(flatten)]
    pub(in crate::cli) what: SubmittedArgs,
    #[command(flatten)]
    pub(in crate::cli) farm: FarmArgs,
    /// Wait until the job is over, and write OUT
    #[arg(long, help_heading = "Farm")]
    pub(in crate::cli) wait: bool,
    /// Print events and the job as JSON lines on standard output
    #[arg(long, help_heading = "Output")]
    pub(in crate::cli) json: bool,
}

/// Parses a number of copies: an even number of servers agrees no better than one fewer.
fn replicas(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("must be 1 or 3".to_owned()),
    }
}

/// One job, or those of a file.
#[derive(Debug)]
pub(in crate::cli) enum SubmittedArgs {
    One(Box<SubmittedJob>),
    Batch(BatchArgs),
}

/// A job with what its submitter chooses besides what the output depends on.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct SubmittedJob {
    #[command(flatten)]
    pub(in crate::cli) job: JobArgs,
    /// What people call the job (default: the name of OUT)
    #[arg(long, help_heading = "Farm")]
    pub(in crate::cli) name: Option<String>,
    /// Priority of the job: those of priority 0 go before all others
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT_PRIORITY,
        value_parser = value_parser!(u8).range(..i64::from(PRIORITIES)),
        help_heading = "Farm"
    )]
    pub(in crate::cli) priority: u8,
    /// Let the coordinator write the output to this file, a relative path below its `--output-root`, when the job is
    /// complete
    #[arg(long, value_name = "FILE", help_heading = "Farm")]
    pub(in crate::cli) deliver: Option<String>,
    /// The job is wanted in so much time: among jobs of one priority, those that are wanted first go first
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Farm")]
    pub(in crate::cli) deadline: Option<Duration>,
    /// Begin only when this job of the farm is complete
    #[arg(long, value_name = "JOB", help_heading = "Farm")]
    pub(in crate::cli) after: Option<JobId>,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct BatchArgs {
    /// Submit the jobs of a file, each line a JSON object with `video`, `audio`, `output` and other options of this
    /// command by their long names: {"video": "a.mp4", "audio": "a.wav", "output": "out.mp4", "steps": 20,
    /// "lossless": true}; or, in a .csv file, a row under a first row that names the options. Relative paths begin
    /// at the file's folder; `after` may name an earlier line. All lines are checked first; if one is wrong,
    /// nothing is queued
    #[arg(long = "batch", value_name = "JOBS.jsonl|csv", help_heading = "Farm")]
    pub(in crate::cli) batch: PathBuf,
    /// With --batch: if lines are wrong, submit the jobs of the others
    #[arg(long, requires = "batch", help_heading = "Farm")]
    pub(in crate::cli) skip_invalid: bool,
    /// The weights of all jobs that name none.
    #[arg(skip)]
    pub(in crate::cli) weights: Option<PathBuf>,
}

/// The option that a batch has in common with a single job.
const WEIGHTS: &str = "weights";

impl Args for SubmittedArgs {
    fn augment_args(command: Command) -> Command {
        let command = SubmittedJob::augment_args(command);
        let command = BatchArgs::augment_args(command.mut_args(|arg| {
            if arg.get_id() == WEIGHTS {
                return arg;
            }
            let is_required = arg.is_required_set();
            let arg = arg.conflicts_with("batch").required(false);
            if is_required {
                arg.required_unless_present("batch")
            } else {
                arg
            }
        }));
        command.mut_arg("batch", |arg| arg.required(false))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SubmittedArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if !matches.contains_id("batch") {
            return Ok(Self::One(Box::new(SubmittedJob::from_arg_matches(matches)?)));
        }
        Ok(Self::Batch(BatchArgs {
            weights: matches.get_one(WEIGHTS).cloned(),
            ..BatchArgs::from_arg_matches(matches)?
        }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// One line of a batch, as a command line without a program's name.
#[derive(Parser, Debug)]
#[command(no_binary_name = true)]
pub(in crate::cli) struct LineArgs {
    #[command(flatten)]
    pub(in crate::cli) job: SubmittedJob,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct JobsArgs {
    #[command(flatten)]
    pub(in crate::cli) farm: FarmArgs,
    /// Only jobs in this phase: queued, running, paused, complete, incomplete, failed or cancelled; may be given
    /// several times
    #[arg(long, value_name = "PHASE")]
    pub(in crate::cli) phase: Vec<JobPhase>,
    /// Only jobs whose name or id contains this text
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(in crate::cli) text: String,
    /// Order of the list
    #[arg(long, value_name = "ORDER", value_enum, default_value = "newest")]
    pub(in crate::cli) sort: JobSort,
    /// List so many jobs at most, after those that are passed over
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(in crate::cli) limit: usize,
    /// Pass over so many of the jobs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) offset: usize,
    /// Instead of the jobs, print when all that are selected will be done, and what one more worker would save
    #[arg(long)]
    pub(in crate::cli) forecast: bool,
    /// Print one JSON object a job
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct StatusArgs {
    /// The job's id, as `latentfarm jobs` lists it
    pub(in crate::cli) job: JobId,
    #[command(flatten)]
    pub(in crate::cli) farm: FarmArgs,
    /// Wait until the job is over
    #[arg(long)]
    pub(in crate::cli) wait: bool,
    /// Print the job as one JSON object; with --wait one for each phase that it comes to
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct ControlArgs {
    /// The job's id, as `latentfarm jobs` lists it
    pub(in crate::cli) job: JobId,
    #[command(flatten)]
    pub(in crate::cli) farm: FarmArgs,
    /// Print the job as one JSON object, after its events if there are any
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct SetArgs {
    #[command(flatten)]
    pub(in crate::cli) control: ControlArgs,
    /// The new priority: jobs of priority 0 go before all others
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(..i64::from(PRIORITIES)))]
    pub(in crate::cli) priority: u8,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct DrainArgs {
    /// The worker's name, as `latentfarm top` lists it, or that of a machine with several devices, for all of its workers
    pub(in crate::cli) worker: WorkerId,
    #[command(flatten)]
    pub(in crate::cli) farm: FarmArgs,
    /// Return when the worker is asked to end, and not when it has ended
    #[arg(long)]
    pub(in crate::cli) no_wait: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct FetchArgs {
    /// The job's id, as `latentfarm jobs` lists it
    pub(in crate::cli) job: JobId,
    /// Where to write the output: a file with the extension that the job was submitted with
    #[arg(short, long, value_name = "OUT")]
    pub(in crate::cli) output: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) farm: FarmArgs,
    /// Replace OUT if it exists
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// Print events and the job as JSON lines on standard output
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
