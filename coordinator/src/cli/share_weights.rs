//! `latentfarm share-weights`: puts a folder of weights into a farm's store, from which workers fetch it.

use anyhow::Context as _;
use latentfarm_common::console::tell;
use latentfarm_common::nats::connect::{self, BRIEF};
use latentfarm_common::nats::{Identity, Role};

use super::args::ShareWeightsArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use super::stdout::print_result;
use crate::farm::share_weights;
use crate::local::worker_program;
use crate::render::WeightsInfo;

pub(super) fn main(args: &ShareWeightsArgs) -> Result<ExitStatus, CommandError> {
    let worker = worker_program().map_err(CommandError::refused)?;
    let info = WeightsInfo::read(&worker, &args.weights).map_err(CommandError::refused)?;
    runtime(2)?.block_on(async {
        let identity = Identity::from_environment(Role::Coordinator, "latentfarm share-weights".to_owned());
        let connected = connect::connect(&args.nats, &identity, BRIEF).await;
        let connection = connected.map_err(CommandError::failed)?;
        let shared = share_weights(&connection, &args.weights, &info, |path| {
            tell(format_args!("storing {}", path.display()));
        });
        let shared = shared
            .await
            .context("the weights are not shared: the same command goes on where this one ended")
            .map_err(CommandError::failed)?;
        let (files, mib) = (shared.list.files.len(), shared.list.bytes() >> 20);
        if shared.was_shared {
            print_result(format_args!(
                "the farm has {} already ({files} files, {mib} MiB)",
                info.identity
            ))?;
        } else {
            print_result(format_args!(
                "shared {} ({} of {files} files stored, {mib} MiB)",
                info.identity, shared.stored
            ))?;
        }
        connection.close().await;
        Ok(ExitStatus::Complete)
    })
}
