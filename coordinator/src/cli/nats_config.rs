//! `latentfarm nats-config`: prepares the nats-server of a farm of several machines.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::server::StandingServer;

use super::{CommandError, Ending};

#[derive(clap::Args, Debug)]
pub(super) struct NatsConfigArgs {
    /// Folder of the server: its configuration, the keys, and later its data
    dir: PathBuf,
    /// A worker that may connect, by the name that it is started with; may be given several times
    #[arg(long, value_name = "NAME")]
    worker: Vec<WorkerId>,
    /// Address and port that the server listens at
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4222")]
    listen: SocketAddr,
}

/// Writes the files and names them.
pub(super) fn main(args: &NatsConfigArgs) -> Result<Ending, CommandError> {
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("cannot resolve `{}`", args.dir.display()))
        .map_err(CommandError::refused)?;
    let written = StandingServer::configure(&dir, args.listen, &args.worker).map_err(CommandError::failed)?;
    let mut out = std::io::stdout();
    for (role, path) in &written.keys {
        let _closed = writeln!(out, "key of `{role}`: {}", path.display());
    }
    let _closed = writeln!(
        out,
        "start it with: nats-server --config {}",
        written.config.display()
    );
    Ok(Ending::Complete)
}
