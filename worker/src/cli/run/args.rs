//! The arguments of `run`.

use std::path::PathBuf;

use latentfarm_common::tags::Tag;
use latentfarm_common::wire::memory::WARN_GIB;

use crate::cli::device_args::DeviceArgs;
use crate::machine::hours::Shift;
use latentfarm_engine::Precision;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct RunArgs {
    /// Join file of this machine, as `latentfarm invite` writes it: the address of the farm's server, the key and the
    /// name of this machine
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nats", "name"], required_unless_present = "nats")]
    pub(super) join: Option<PathBuf>,
    /// URL of the farm's NATS server, if there is no join file; the environment variable `LATENTFARM_NKEY_SEED` holds
    /// the key of this machine, if the server wants one
    #[arg(long, value_name = "URL")]
    pub(super) nats: Option<String>,
    /// Name of this worker, unique on the farm: 1 to 40 of a-z, 0-9 and - (default: the host's name)
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// What this machine is good for or where it stands, in words such as `eu` or `nvenc`: jobs that need a tag
    /// (`latentfarm submit --need-tag`) are given only to workers that have it. May be given several times or as a list
    /// with commas, and adds to the tags in the join file: at most 16 of 1 to 32 of a-z, 0-9, _ and -
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub(super) tag: Vec<Tag>,
    /// Folder with the model weights, or `auto`: those that a task names are fetched from the farm's store, where
    /// `latentfarm share-weights` puts them, and kept
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS")]
    pub(super) weights: PathBuf,
    /// Folder for the weights that `--weights auto` fetches, which all workers of one user may share (default:
    /// `latentfarm/weights` in this user's cache folder)
    #[arg(long, value_name = "DIR")]
    pub(super) weights_cache: Option<PathBuf>,
    /// Most that the fetched weights may take, in GiB; those not used for longest are removed first
    #[arg(long, value_name = "GIB", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    pub(super) weights_cache_limit: u64,
    #[command(flatten)]
    pub(super) devices: DeviceArgs,
    /// Use so many GPUs at most, those with the most free memory (default: all that the list of devices names)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) gpus: Option<u8>,
    /// Take tasks only in these hours, by the clock of this machine: `19:00-07:00`, `mon-fri 19:00-07:00` or `sat,sun`; may
    /// be given several times. A chunk that runs when they end is finished; what waits goes to other workers
    #[arg(long, value_name = "HOURS")]
    pub(super) hours: Vec<Shift>,
    /// Take no task while other programs hold more than this much of the GPU's memory, in MiB, and give the engine's back: for
    /// machines on which people work. A desktop holds 500 to 1500 MiB, and an engine that waits for a task some 500
    #[arg(long, value_name = "MIB")]
    pub(super) yield_above: Option<u64>,
    /// Seconds for which other programs hold less than that before tasks are taken again
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "yield_above")]
    pub(super) quiet_for: u64,
    /// Number type that the engine computes in (default: f32 on the CPU, f16 on CUDA)
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(super) precision: Option<Precision>,
    /// Threads of the engine and of the media process (default: all cores)
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<u32>,
    /// Folder for temporary files (default: a new one that is removed at the end)
    #[arg(long, value_name = "DIR")]
    pub(super) scratch: Option<PathBuf>,
    /// Seconds without a message after which an engine or media process counts as hung and is killed; for
    /// work that this device has done before, the limit is five times its longest silence so far, and at
    /// least one minute
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub(super) silence_limit: u64,
    /// Seconds for which this worker goes on with task after task while another worker of this machine waits for
    /// the same GPU; one of them has an engine there at a time, and they take turns
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(super) device_turn: u64,
    /// Amounts of used memory, in GiB, whose crossing is logged as a warning; 90 % of a device always is
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = WARN_GIB)]
    pub(super) warn_gib: Vec<u64>,
    /// When the engine gives unused memory back to the device; the more often it does, the more other
    /// programs find free
    #[arg(long, value_name = "WHEN", value_parser = ["strict", "step", "window", "task"])]
    pub(super) cleanup: Option<String>,
    /// Seconds after which a GPU that failed its check is checked again
    #[arg(long, value_name = "SECONDS", default_value_t = 600, hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) recheck: u64,
    /// End with exit code 3 if no device can be used, instead of waiting for one; `latentfarm render` asks for it, since no
    /// other worker would join its farm
    #[arg(long, hide = true)]
    pub(super) exit_if_unfit: bool,
    /// Argument to pass on to the engine
    #[arg(long, value_name = "ARG", hide = true, allow_hyphen_values = true)]
    pub(super) engine_arg: Vec<String>,
}
