//! Finds the server whose heartbeats `latentfarm top` reads, and the key to connect with.

use std::path::Path;

use anyhow::Context as _;
use latentfarm_common::nats::{Identity, Role};

use crate::cli::args::TopArgs;
use crate::job::folder::job_folder_of;
use crate::local::WatchFile;

const NAME: &str = "latentfarm top";

/// The nats-server of a farm, as an observer reaches it.
pub(super) struct FarmServer {
    pub(super) url: String,
    pub(super) identity: Identity,
    /// The error's context if the server does not answer.
    pub(super) no_answer: String,
}

/// Returns the server of `--nats`, or the private one of the render that the arguments name.
pub(super) fn find(args: &TopArgs) -> anyhow::Result<FarmServer> {
    if let Some(url) = &args.nats {
        return Ok(FarmServer {
            url: url.clone(),
            identity: Identity::from_environment(Role::Observer, NAME.to_owned()),
            no_answer: format!("no server answers at {url}"),
        });
    }
    let given = args.job.as_deref().unwrap_or(Path::new("."));
    let folder = job_folder_of(given, &["job"]).with_context(|| {
        format!(
            "`{}` is no running render: neither a job folder nor an output with one beside it",
            given.display()
        )
    })?;
    let watch = WatchFile::read(&folder)?;
    Ok(FarmServer {
        url: watch.url,
        identity: Identity {
            role: Role::Observer,
            nkey_seed: Some(watch.nkey_seed),
            authority: None,
            client: None,
            name: NAME.to_owned(),
        },
        no_answer: format!("the render in `{}` is not running now", folder.display()),
    })
}
