//! `latentfarm backup` and `latentfarm restore`: a farm's truth in a file, and a farm that goes on from it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use latentfarm_common::console::tell;
use latentfarm_common::nats::server::{EmbeddedServer, Network, ServerOptions, locate};
use latentfarm_common::nats::{Identity, Role};
use latentfarm_common::shutdown::{self, Phase};
use tokio::time::Instant;

use super::args::{BackupArgs, RestoreArgs};
use super::exit::{CommandError, ExitStatus, runtime};
use super::serve::{lease_holder, room_for_server};
use super::stdout::print_result;
use crate::dispatch::Farm;
use crate::farm::{self, Backup, BackupProgress, BackupTotals};

/// How often the progress is printed.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

pub(super) fn backup(args: &BackupArgs) -> Result<ExitStatus, CommandError> {
    runtime(2)?.block_on(interruptible(async {
        let folder = match args.file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let scratch = tempfile::Builder::new()
            .prefix(".latentfarm-backup-")
            .tempdir_in(folder);
        let scratch = scratch
            .with_context(|| format!("cannot write into `{}`", folder.display()))
            .map_err(CommandError::refused)?;
        let identity = Identity::from_environment(Role::Observer, "latentfarm backup".to_owned());
        let connected = Farm::connect(&args.nats, &identity).await;
        let farm = connected.map_err(CommandError::failed)?;
        let staged = scratch.path().join("backup");
        let failed = || format!("cannot write `{}`", args.file.display());
        // It has the pictures of all jobs.
        let private = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged);
        let file = private.with_context(failed)?;
        let written = farm::backup(&farm, !args.no_media, scratch.path(), &file, progress("copied"));
        let totals = written.await.map_err(CommandError::failed)?;
        farm.connection.close().await;
        file.sync_all().with_context(failed)?;
        std::fs::rename(&staged, &args.file).with_context(failed)?;
        print_result(format_args!(
            "wrote {} to `{}`",
            described(totals),
            args.file.display()
        ))?;
        Ok(ExitStatus::Complete)
    }))
}

pub(super) fn restore(args: &RestoreArgs) -> Result<ExitStatus, CommandError> {
    let file = File::open(&args.file)
        .with_context(|| format!("cannot open `{}`", args.file.display()))
        .map_err(CommandError::refused)?;
    runtime(2)?.block_on(interruptible(async {
        let unusable = || format!("cannot restore `{}`", args.file.display());
        let checked = Backup::check(file).with_context(unusable);
        let backup = checked.map_err(CommandError::refused)?;
        let (server, url, identity, hint) = match (&args.dir, &args.nats) {
            (Some(dir), _) => {
                let server = start_server(dir, args.nats_server.as_deref()).await?;
                let (url, identity) = (server.url(), server.coordinator());
                let dir = dir.display();
                let hint = format!("`latentfarm serve --dir {dir}` goes on with the jobs");
                (Some(server), url, identity, hint)
            }
            (None, Some(url)) => {
                let name = "latentfarm restore".to_owned();
                let identity = Identity::from_environment(Role::Coordinator, name);
                let hint = format!("`latentfarm serve --nats {url}` goes on with the jobs");
                (None, url.clone(), identity, hint)
            }
            (None, None) => return Err(CommandError::refused(anyhow!("give --dir, or --nats"))),
        };
        let connected = Farm::connect(&url, &identity).await;
        let farm = connected.map_err(CommandError::failed)?;
        let holder = lease_holder("latentfarm restore");
        let restored = Box::pin(farm::restore(&farm, &backup, &holder, progress("stored"))).await;
        farm.connection.close().await;
        if let Some(server) = server {
            server.stop().await;
        }
        let totals = restored
            .map_err(CommandError::from)
            .map_err(|error| CommandError {
                source: error.source.context(unusable()),
                ..error
            })?;
        print_result(format_args!("restored {}; {hint}", described(totals)))?;
        Ok(ExitStatus::Complete)
    }))
}

/// Starts the server of a farm that is in a folder, for this process alone.
async fn start_server(dir: &Path, program: Option<&Path>) -> Result<EmbeddedServer, CommandError> {
    let binary = locate(program).await.map_err(CommandError::refused)?;
    let mut options = ServerOptions::new(binary, dir.join("server"), Vec::new());
    options.max_file_bytes = options.max_file_bytes.min(room_for_server(&options.dir));
    options.network = Some(Network {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        hosts: Vec::new(),
        demands_certificates: false,
    });
    let started = EmbeddedServer::start(options).await;
    let started = started.context("cannot start the farm's nats-server");
    started.map_err(CommandError::failed)
}

/// Ends an action that a signal interrupts; what it has made for the time being is removed.
async fn interruptible(
    action: impl Future<Output = Result<ExitStatus, CommandError>>,
) -> Result<ExitStatus, CommandError> {
    let (trigger, mut shutdown, _drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    tokio::select! {
        ended = action => ended,
        () = shutdown.reached(Phase::Draining) => {
            tell("interrupted");
            Ok(ExitStatus::Interrupted)
        }
    }
}

/// Returns what prints the progress from time to time.
fn progress(verb: &'static str) -> impl FnMut(BackupProgress) {
    let mut printed = Instant::now();
    move |progress| {
        if printed.elapsed() >= PROGRESS_EVERY {
            printed = Instant::now();
            let [done, all] = [progress.blob_bytes, progress.of_bytes].map(|bytes| bytes >> 20);
            tell(format_args!("{verb} {done} of {all} MiB"));
        }
    }
}

fn described(totals: BackupTotals) -> String {
    let BackupTotals {
        records,
        blobs,
        blob_bytes,
    } = totals;
    format!("{records} records and {blobs} blobs ({} MiB)", blob_bytes >> 20)
}
