//! `latentfarm nats-config`: writes the configuration and the keys of the nats-server of a farm of several
//! machines.

use std::io::Write as _;

use anyhow::Context as _;
use latentfarm_common::nats::server::StandaloneServer;

use super::args::NatsConfigArgs;
use super::exit::{CommandError, ExitStatus};

/// Writes the files and prints their paths.
pub(super) fn main(args: &NatsConfigArgs) -> Result<ExitStatus, CommandError> {
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("cannot resolve `{}`", args.dir.display()))
        .map_err(CommandError::refused)?;
    let written =
        StandaloneServer::configure(&dir, args.listen, &args.worker).map_err(CommandError::failed)?;
    let mut out = std::io::stdout();
    for (role, path) in &written.keys {
        let _closed = writeln!(out, "key of `{role}`: {}", path.display());
    }
    let _closed = writeln!(
        out,
        "start it with: nats-server --config {}",
        written.config.display()
    );
    Ok(ExitStatus::Complete)
}
