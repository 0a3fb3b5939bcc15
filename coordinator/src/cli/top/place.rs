//! Which server to listen to, and as whom.

use std::path::{Path, PathBuf};

use latentfarm_common::nats::{Identity, Role};

use super::TopArgs;
use crate::local::{WatchFile, WatchFileError, job_folder_of};

const NAME: &str = "latentfarm top";

pub(super) struct Place {
    pub(super) url: String,
    pub(super) identity: Identity,
    /// What it means if nobody answers.
    pub(super) if_absent: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("`{}` is no running render: neither a job folder nor an output with one beside it", .0.display())]
    NoFolder(PathBuf),
    #[error(transparent)]
    WatchFile(#[from] WatchFileError),
}

pub(super) fn find(args: &TopArgs) -> Result<Place, PlaceError> {
    if let Some(url) = &args.nats {
        return Ok(Place {
            url: url.clone(),
            identity: Identity::from_environment(Role::Observer, NAME.to_owned()),
            if_absent: format!("nobody answers at {url}"),
        });
    }
    let given = args.job.as_deref().unwrap_or(Path::new("."));
    let folder = job_folder_of(given, &["job"]).ok_or_else(|| PlaceError::NoFolder(given.to_owned()))?;
    let watch = WatchFile::read(&folder)?;
    Ok(Place {
        url: watch.url,
        identity: Identity {
            role: Role::Observer,
            nkey_seed: Some(watch.nkey_seed),
            name: NAME.to_owned(),
        },
        if_absent: format!("the render in `{}` is not running now", folder.display()),
    })
}
