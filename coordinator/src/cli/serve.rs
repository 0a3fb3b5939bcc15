//! `latentfarm serve`: the standing coordinator of a farm.

use anyhow::Context as _;
use latentfarm_common::console::tell;
use latentfarm_common::nats::lease::{Contention, LeaseTtl};
use latentfarm_common::shutdown;

use super::args::ServeArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use crate::dispatch::{FarmSettings, Timeouts};
use crate::farm::{self, ServeSettings};

pub(super) fn main(args: ServeArgs) -> Result<ExitStatus, CommandError> {
    runtime(2)?.block_on(run(args))
}

async fn run(args: ServeArgs) -> Result<ExitStatus, CommandError> {
    let (trigger, shutdown, _drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("cannot resolve `{}`", args.dir.display()))
        .map_err(CommandError::refused)?;
    let url = args.nats.clone();
    let settings = ServeSettings {
        url: args.nats,
        dir,
        farm: FarmSettings {
            holder: format!("process {} of latentfarm serve", std::process::id()),
            contention: Contention::Refuse,
            lease_time: LeaseTtl::default(),
            timeouts: Timeouts::default(),
        },
    };
    let ready = |open: usize| {
        tell(format_args!(
            "coordinating the farm at {url}: {open} jobs are not over; `latentfarm submit` takes more"
        ));
    };
    // The future is large.
    Box::pin(farm::serve(settings, shutdown, ready))
        .await
        .map_err(CommandError::failed)?;
    tell(format_args!("ended; the same command goes on with the jobs"));
    Ok(ExitStatus::Complete)
}
