//! `latentfarm serve`: the standing coordinator of a farm.

use std::num::NonZeroU32;
use std::path::Path;

use anyhow::Context as _;
use latentfarm_common::console::tell;
use latentfarm_common::disk::written_bytes;
use latentfarm_common::host;
use latentfarm_common::nats::identity::{AUTHORITY_VARIABLE, CLIENT_VARIABLE};
use latentfarm_common::nats::lease::{Contention, LeaseTtl};
use latentfarm_common::nats::server::{Network, ServerOptions, locate};
use latentfarm_common::shutdown;

use super::args::ServeArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use crate::dispatch::{FarmSettings, Timeouts};
use crate::farm::{self, CoordinatorSettings, FarmServer, Ready, Retention, ServeSettings};
use crate::render::Volume;

pub(super) fn main(args: ServeArgs) -> Result<ExitStatus, CommandError> {
    runtime(2)?.block_on(run(args))
}

async fn run(args: ServeArgs) -> Result<ExitStatus, CommandError> {
    let (trigger, shutdown, _drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("cannot resolve `{}`", args.dir.display()))
        .map_err(CommandError::refused)?;
    let keys = dir.join("server/keys");
    let is_mutual = args.mutual_tls;
    let server = if let Some(url) = args.nats {
        FarmServer::Existing { url }
    } else {
        let binary = locate(args.nats_server.as_deref()).await;
        let binary = binary.map_err(CommandError::refused)?;
        let mut options = ServerOptions::new(binary, dir.join("server"), args.worker);
        options.max_file_bytes = options.max_file_bytes.min(room_for_server(&options.dir));
        options.network = Some(Network {
            listen: args.listen,
            hosts: certified_hosts(args.host),
            demands_certificates: args.mutual_tls,
        });
        FarmServer::Own(Box::new(options))
    };
    let settings = ServeSettings {
        server,
        coordinator: CoordinatorSettings {
            dir,
            retention: Retention {
                results: args.keep_results,
                history: args.keep_history,
            },
            output_root: args.output_root,
        },
        replicas: args.replicas,
        store_limit_bytes: args.store_limit.map(|mib| mib << 20),
        is_standby: args.standby,
        farm: FarmSettings {
            holder: lease_holder("latentfarm serve"),
            contention: Contention::Refuse,
            lease_time: LeaseTtl::default(),
            spot_check: NonZeroU32::new(args.spot_check),
            timeouts: Timeouts::default(),
        },
    };
    let ready = |Ready {
                     url,
                     authority,
                     open_jobs,
                 }| {
        if let Some(authority) = authority {
            tell(format_args!(
                "the farm's server has its keys in `{}`; its clients need those and {}",
                keys.display(),
                certificate_variables(&authority, is_mutual)
            ));
        }
        tell(format_args!(
            "coordinating the farm at {url}: {open_jobs} jobs are not over; `latentfarm submit` takes more"
        ));
    };
    // The future is large.
    Box::pin(farm::serve(settings, shutdown, ready))
        .await
        .map_err(CommandError::failed)?;
    tell(format_args!("ended; the same command goes on with the jobs"));
    Ok(ExitStatus::Complete)
}

/// Returns how much the own server may store in its folder, what it has stored included. A tenth of what is free stays
/// free.
pub(super) fn room_for_server(dir: &Path) -> u64 {
    let free = Volume::of(dir).map_or(u64::MAX, |volume| volume.free_bytes);
    written_bytes(dir).saturating_add(free / 10 * 9)
}

/// Returns the names that a server's certificate is for: those that were named, or that of this machine.
pub(super) fn certified_hosts(named: Vec<String>) -> Vec<String> {
    if named.is_empty() {
        host::name().into_iter().collect()
    } else {
        named
    }
}

/// Returns the environment variables with which clients find their certificates, for a server that is recognised by the one
/// at `authority`.
pub(super) fn certificate_variables(authority: &Path, is_mutual: bool) -> String {
    let authority_is = format!("{AUTHORITY_VARIABLE}={}", authority.display());
    if !is_mutual {
        return authority_is;
    }
    let client = authority.with_file_name("client.pem");
    format!("{authority_is} and {CLIENT_VARIABLE}={}", client.display())
}

/// Returns the name under which a command of this process holds the farm's lease.
pub(super) fn lease_holder(command: &str) -> String {
    let machine = host::name().unwrap_or_else(|| "a machine without a name".to_owned());
    format!("process {} of {command} on {machine}", std::process::id())
}
