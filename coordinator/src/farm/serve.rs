//! Runs the standing coordinator of a farm: takes the farm's lease, and runs the dispatcher beside the
//! coordinator of its jobs.

use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::error::{FileError, one_line};
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::identity::{Identity, PemFile};
use latentfarm_common::nats::lease::{self, Lease, LeaseError};
use latentfarm_common::nats::server::{EmbeddedServer, ServerError, ServerFolder, ServerOptions};
use latentfarm_common::nats::{Connection, Role};
use latentfarm_common::shutdown::{Phase, Shutdown};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::coordinator::{Coordinator, CoordinatorSettings};
use super::error::ServeError;
use crate::dispatch::{self, Farm, FarmError, FarmSettings, SegmentReader};
use crate::local::{LocalNotice, SupervisedServer};

/// How often a coordinator that waits for the lease tries to take it.
const LEASE_RETRY: Duration = Duration::from_secs(1);

/// How often the coordinator looks whether the keys of its own server were changed.
const KEYS_LOOK: Duration = Duration::from_secs(1);
/// How often the machines are shut out whose keys have expired.
const EXPIRY_CHECK: Duration = Duration::from_mins(1);

/// The server of a farm.
#[derive(Clone, Debug)]
pub enum FarmServer {
    /// One that runs already.
    Existing { url: String },
    /// One that is started with the coordinator, and stopped with it.
    Own(Box<ServerOptions>),
}

/// How a standing coordinator is run.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    pub server: FarmServer,
    /// Its folder is for journals and temporary files, and can be lost: the farm's server has all that a job needs to
    /// go on.
    pub coordinator: CoordinatorSettings,
    /// Number of copies that the servers of a cluster keep of everything: 1, or 3; `None` leaves it as it is.
    pub replicas: Option<usize>,
    /// Limit of all blobs in bytes; by default what the server allows.
    pub store_limit_bytes: Option<u64>,
    /// Whether to wait while another coordinator is at work, and to take over from it.
    pub is_standby: bool,
    pub farm: FarmSettings,
}

/// A coordinator that is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Address of the server, as this machine reaches it.
    pub url: String,
    /// The certificate by which the clients of the coordinator's own server recognise it.
    pub authority: Option<PathBuf>,
    /// Number of jobs that are not over.
    pub open_jobs: usize,
}

/// Runs the coordinator of a farm until `shutdown`, or until another coordinator takes over. The jobs stay on the
/// farm's server, and the next coordinator goes on with them. `ready` is called once requests are answered.
pub async fn serve(
    settings: ServeSettings,
    shutdown: Shutdown,
    ready: impl FnOnce(Ready),
) -> Result<(), ServeError> {
    let scratch = settings.coordinator.dir.join("scratch");
    let _absent = fs::remove_dir_all(&scratch);
    for folder in [Some(&scratch), settings.coordinator.output_root.as_ref()]
        .into_iter()
        .flatten()
    {
        fs::create_dir_all(folder).map_err(FileError::at("create", folder))?;
    }
    let (notify, mut notices) = mpsc::unbounded_channel();
    let mut keys = None;
    let (url, identity, server) = match settings.server.clone() {
        FarmServer::Existing { url } => {
            let identity = Identity::from_environment(Role::Coordinator, "latentfarm serve".to_owned());
            (url, identity, None)
        }
        FarmServer::Own(options) => {
            let dir = options.dir.clone();
            let server = EmbeddedServer::start(*options)
                .await
                .map_err(ServeError::Server)?;
            keys = Some(ServerFolder::find(&dir).map_err(ServeError::Server)?);
            let (url, identity) = (server.url(), server.coordinator());
            (url, identity, Some(SupervisedServer::new(server, notify.clone())))
        }
    };
    let lost = async {
        while let Some(notice) = notices.recv().await {
            match notice {
                LocalNotice::ServerLost { why } => return why,
                LocalNotice::ServerRestarted { how } => {
                    tracing::warn!(
                        how,
                        "the farm's nats-server ended unexpectedly and was started again"
                    );
                }
                // It has no workers.
                LocalNotice::WorkerDied { .. } | LocalNotice::WorkerGivenUp { .. } => {}
            }
        }
        // A farm without a server of its own loses none.
        std::future::pending().await
    };
    let ready = |open_jobs| {
        ready(Ready {
            url: url.clone(),
            authority: match &identity.authority {
                Some(PemFile::File(path)) if server.is_some() => Some(path.clone()),
                _ => None,
            },
            open_jobs,
        });
    };
    // The future is large.
    let coordinated = Box::pin(coordinate(&url, &identity, settings, scratch, shutdown, ready));
    let ended = tokio::select! {
        ended = coordinated => ended,
        why = lost => Err(ServeError::ServerLost { why }),
        never = keep_keys(keys) => match never {},
    };
    if let Some(server) = server {
        server.stop().await;
    }
    ended
}

/// Runs the coordinator on a server that runs.
async fn coordinate(
    url: &str,
    identity: &Identity,
    settings: ServeSettings,
    scratch: PathBuf,
    shutdown: Shutdown,
    ready: impl FnOnce(usize),
) -> Result<(), ServeError> {
    let mut farm = Farm::connect(url, identity).await?;
    farm.topology.replicas = settings.replicas;
    if let Some(bytes) = settings.store_limit_bytes {
        farm.topology.media_max_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    }
    let of_farm = settings.farm;
    let lease = if settings.is_standby {
        let mut leaving = shutdown.clone();
        let waited = tokio::select! {
            lease = take_over(&farm, &of_farm) => Some(lease?),
            () = leaving.reached(Phase::Draining) => None,
        };
        let Some(lease) = waited else {
            farm.connection.close().await;
            return Ok(());
        };
        lease
    } else {
        farm.prepare().await?;
        let acquired = acquire(&farm.connection, &of_farm).await;
        acquired.map_err(ServeError::Lease)?
    };
    let (orders, ordered) = mpsc::unbounded_channel();
    let coordinator = Coordinator::open(&farm, &lease, settings.coordinator, orders).await;
    let ended = match coordinator {
        Ok(mut coordinator) => {
            let reader = SegmentReader::new(&farm.store, scratch);
            let dispatched = dispatch::run_farm(&farm, &lease, of_farm, reader, ordered, shutdown);
            // The jobs of a coordinator that ends are reported before the dispatcher returns.
            let ended = tokio::select! {
                ended = dispatched => ended.map_err(ServeError::Dispatch),
                ended = coordinator.run(ready) => ended,
            };
            coordinator.end().await;
            ended
        }
        Err(error) => Err(error),
    };
    // A lost lease belongs to another coordinator.
    if lease.is_held() {
        lease.release().await;
    }
    farm.connection.close().await;
    ended
}

/// Waits until no other coordinator is at work, and takes the farm's lease. The streams are left as they are until then:
/// the one at work may have other settings.
async fn take_over(farm: &Farm, settings: &FarmSettings) -> Result<Lease, ServeError> {
    let mut known = None;
    loop {
        match lease::holder(&farm.connection).await {
            Ok(None) => {
                let acquired = match farm.prepare().await {
                    Ok(()) => acquire(&farm.connection, settings).await,
                    // A cluster that has just lost a server may have no leader yet.
                    Err(FarmError::Streams(error)) => {
                        tracing::warn!(error = one_line(&error), "cannot take over the farm yet");
                        tokio::time::sleep(LEASE_RETRY).await;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                match acquired {
                    Ok(lease) => return Ok(lease),
                    Err(error) => tracing::debug!(error = one_line(&error), "cannot take the lease yet"),
                }
            }
            Ok(holder) if holder != known => {
                tracing::info!("standing by for {}", holder.as_deref().unwrap_or_default());
                known = holder;
            }
            Ok(_) => {}
            // The connection reports an outage.
            Err(error) => tracing::debug!(error = one_line(&error), "cannot look at the lease"),
        }
        tokio::time::sleep(LEASE_RETRY).await;
    }
}

/// Takes the farm's lease. That of a coordinator that was killed is waited for until it expires; one that is
/// renewed meanwhile belongs to a coordinator that is alive.
async fn acquire(connection: &Connection, settings: &FarmSettings) -> Result<Lease, LeaseError> {
    let FarmSettings {
        holder,
        lease_time,
        contention,
        ..
    } = settings;
    let mut seen = None;
    loop {
        match Lease::acquire(connection, holder, *lease_time, *contention).await {
            Err(LeaseError::Held {
                holder: other,
                revision,
                ..
            }) if seen.is_none_or(|seen| seen == revision) => {
                if seen.replace(revision).is_none() {
                    tracing::warn!(
                        holder = other,
                        "waiting for the lease of another coordinator to expire, unless that is alive"
                    );
                }
                tokio::time::sleep(LEASE_RETRY).await;
            }
            acquired => return acquired,
        }
    }
}

/// Keeps an own server up to date with its keys: shuts out the machines whose keys have expired by the clock, and lets it
/// read what `latentfarm invite` and `revoke` have changed, which may run in a container of their own, where they cannot
/// see the server's process. Whoever runs another server does that there.
async fn keep_keys(folder: Option<ServerFolder>) -> Infallible {
    let Some(folder) = folder else {
        return std::future::pending().await;
    };
    let mut changed = folder.changed();
    let mut checked = Instant::now();
    let mut shut_out = Vec::new();
    loop {
        tokio::time::sleep(KEYS_LOOK).await;
        let is_due = checked.elapsed() >= EXPIRY_CHECK;
        if is_due {
            checked = Instant::now();
        }
        let (look, seen) = (folder.clone(), changed);
        let looked = tokio::task::spawn_blocking(move || {
            let expired = is_due.then(|| look.shut_out_expired()).transpose()?;
            let changed = look.changed();
            if changed != seen {
                look.reload()?;
            }
            Ok::<_, ServerError>((changed, expired))
        });
        match looked.await {
            Ok(Ok((now, expired))) => {
                changed = now;
                if let Some(expired) = expired {
                    log_changes(&shut_out, &expired);
                    shut_out = expired;
                }
            }
            Ok(Err(error)) => {
                tracing::error!(
                    error = one_line(&error),
                    "cannot bring the server's keys up to date"
                );
            }
            // The runtime ends.
            Err(_) => {}
        }
    }
}

/// Logs which machines are shut out because their keys have expired, and were not before, and which are admitted again.
fn log_changes(before: &[WorkerId], expired: &[WorkerId]) {
    for machine in expired.iter().filter(|machine| !before.contains(machine)) {
        tracing::warn!(
            %machine,
            "the machine's key has expired by this machine's clock, and it is shut out; `latentfarm invite` makes another"
        );
    }
    for machine in before.iter().filter(|machine| !expired.contains(machine)) {
        tracing::info!(%machine, "the machine's expired key is shut out no more: it is valid, or was replaced or removed");
    }
}
