//! `latentfarm nats-config`: writes the configuration and the keys of the nats-server of a farm of several
//! machines.

use anyhow::Context as _;
use latentfarm_common::console::tell;
use latentfarm_common::nats::server::StandaloneServer;

use super::args::NatsConfigArgs;
use super::exit::{CommandError, ExitStatus};
use super::stdout::print_result;

/// Writes the files and prints their paths.
pub(super) fn main(args: &NatsConfigArgs) -> Result<ExitStatus, CommandError> {
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("cannot resolve `{}`", args.dir.display()))
        .map_err(CommandError::refused)?;
    let written =
        StandaloneServer::configure(&dir, args.listen, &args.worker).map_err(CommandError::failed)?;
    for (role, path) in &written.keys {
        print_result(format_args!("key of `{role}`: {}", path.display()))?;
    }
    if written.was_kept {
        tell(format_args!(
            "`{}` is left as it is, besides its keys: delete it to have it written anew",
            written.config.display()
        ));
    }
    print_result(format_args!(
        "start it with: nats-server --config {}",
        written.config.display()
    ))?;
    Ok(ExitStatus::Complete)
}
