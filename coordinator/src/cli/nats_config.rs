//! `latentfarm nats-config`: writes the configuration and the keys of the nats-server of a farm of several
//! machines.

use anyhow::Context as _;
use latentfarm_common::console::tell;
use latentfarm_common::nats::server::{Cluster, Encryption, StandaloneOptions, StandaloneServer};

use super::args::NatsConfigArgs;
use super::exit::{CommandError, ExitStatus};
use super::serve::{certificate_variables, certified_hosts};
use super::stdout::print_result;

/// Writes the files and prints their paths.
pub(super) fn main(args: &NatsConfigArgs) -> Result<ExitStatus, CommandError> {
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("cannot resolve `{}`", args.dir.display()))
        .map_err(CommandError::refused)?;
    let cluster = args.server_name.clone().map(|server_name| Cluster {
        server_name,
        listen: args.cluster_listen,
        routes: args.route.clone(),
    });
    let encrypts = args.tls || args.mutual_tls || cluster.is_some();
    let options = StandaloneOptions {
        listen: args.listen,
        workers: args.worker.clone(),
        encryption: encrypts.then_some(Encryption {
            hosts: certified_hosts(args.host.clone()),
            demands_certificates: args.mutual_tls,
        }),
        cluster,
    };
    let written = StandaloneServer::configure(&dir, &options).map_err(CommandError::failed)?;
    for (role, path) in &written.keys {
        print_result(format_args!("key of `{role}`: {}", path.display()))?;
    }
    if written.was_kept {
        tell(format_args!(
            "`{}` is left as it is, besides its keys: delete it to have it written anew",
            written.config.display()
        ));
    }
    if encrypts {
        let authority = dir.join("tls/ca.pem");
        print_result(format_args!(
            "its clients need {}",
            certificate_variables(&authority, args.mutual_tls)
        ))?;
    }
    print_result(format_args!(
        "start it with: nats-server --config {}",
        written.config.display()
    ))?;
    Ok(ExitStatus::Complete)
}
