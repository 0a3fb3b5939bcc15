//! The options of the commands that set up a farm's server, admit machines to it, and copy what it has. The doc comments are
//! the help texts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::tags::Tag;

use super::job::duration;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct NatsConfigArgs {
    /// Folder of the server: its configuration, the keys, and later its data
    pub(in crate::cli) dir: PathBuf,
    /// Name of a worker that may connect, as in `latentfarm-worker run --name`; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) worker: Vec<WorkerId>,
    /// Address and port that the server listens on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4222")]
    pub(in crate::cli) listen: SocketAddr,
    /// Encrypt all connections, with certificates that are made in DIR/tls
    #[arg(long)]
    pub(in crate::cli) tls: bool,
    /// Encrypt, and demand a certificate of each client too: join files have one, and other programs find theirs by the
    /// environment variable `LATENTFARM_CLIENT_CERT`
    #[arg(long)]
    pub(in crate::cli) mutual_tls: bool,
    /// Name or address by which other machines reach the server, for its certificate; may be given several times
    /// (default: the name of this machine)
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) host: Vec<String>,
    /// Name of this server in a cluster, which no other of it has; a cluster always encrypts
    #[arg(long, value_name = "NAME", requires = "route", value_parser = server_name)]
    pub(in crate::cli) server_name: Option<String>,
    /// Where another server of the cluster listens, as in `nats://n2:6222`; may be given several times
    #[arg(long, value_name = "URL", requires = "server_name")]
    pub(in crate::cli) route: Vec<String>,
    /// Address and port at which this server listens for the others of the cluster
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:6222",
        requires = "server_name"
    )]
    pub(in crate::cli) cluster_listen: SocketAddr,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct InviteArgs {
    /// Name of the machine: 1 to 36 of a-z, 0-9 and -; its workers have it too
    #[arg(value_name = "NAME")]
    pub(in crate::cli) machine: WorkerId,
    /// Folder of `latentfarm serve`, or of `latentfarm nats-config`
    #[arg(long, value_name = "DIR", default_value = "latentfarm-serve")]
    pub(in crate::cli) dir: PathBuf,
    /// The join file (default: NAME.join)
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
    /// Address at which the machine reaches the server, or the addresses of a cluster's servers, separated by commas
    /// (default: that which the server was set up with)
    #[arg(long, value_name = "URL")]
    pub(in crate::cli) url: Option<String>,
    /// How long the key is valid: `12h`, `30d`
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = duration)]
    pub(in crate::cli) valid: Duration,
    /// A tag that the machine's workers have, such as `eu` or `nvenc`: jobs that need it are given only to workers that
    /// have it. May be given several times or as a list with commas
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub(in crate::cli) tag: Vec<Tag>,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct RevokeArgs {
    /// Name of the machine, as it was invited
    #[arg(value_name = "NAME")]
    pub(in crate::cli) machine: WorkerId,
    /// Folder of `latentfarm serve`, or of `latentfarm nats-config`
    #[arg(long, value_name = "DIR", default_value = "latentfarm-serve")]
    pub(in crate::cli) dir: PathBuf,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct AuditArgs {
    /// URL of the farm's NATS server; the environment variable `LATENTFARM_NKEY_SEED` holds the observer's key, if the
    /// server wants one
    #[arg(long, value_name = "URL", env = "LATENTFARM_NATS")]
    pub(in crate::cli) nats: String,
    /// Read each blob that a job needs, and compare it with its digest
    #[arg(long)]
    pub(in crate::cli) verify: bool,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct BackupArgs {
    /// The backup; one that is there is replaced when the new one is whole
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
    /// URL of the farm's NATS server; the environment variable `LATENTFARM_NKEY_SEED` holds the observer's key, if the
    /// server wants one
    #[arg(long, value_name = "URL", env = "LATENTFARM_NATS")]
    pub(in crate::cli) nats: String,
    /// Leave out videos, sound and results, for a server that keeps its store of media: without them no job can go on
    #[arg(long)]
    pub(in crate::cli) no_media: bool,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct RestoreArgs {
    /// A file that `latentfarm backup` wrote
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
    /// Folder of a `latentfarm serve` with a server of its own, which does not run; it is made if it is not there
    #[arg(long, value_name = "DIR", required_unless_present = "nats")]
    pub(in crate::cli) dir: Option<PathBuf>,
    /// URL of a NATS server that runs, instead of --dir; the environment variable `LATENTFARM_NKEY_SEED` holds the
    /// coordinator's key, if the server wants one
    #[arg(long, value_name = "URL", env = "LATENTFARM_NATS")]
    pub(in crate::cli) nats: Option<String>,
    /// nats-server program for --dir (2.12 or newer)
    #[arg(long, value_name = "PATH", env = "LATENTFARM_NATS_SERVER")]
    pub(in crate::cli) nats_server: Option<PathBuf>,
}

/// Parses the name of a server of a cluster.
fn server_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=64).contains(&text.len()) && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("a server's name has 1 to 64 of a-z, A-Z, 0-9, - and _".to_owned())
    }
}
