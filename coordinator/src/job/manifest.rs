//! The manifest of a job, which is created once in the job folder and once in the farm's key-value bucket.
//! `run_job` requires both to be equal, so that a folder is never resumed against another job's done log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_nats::jetstream::kv::CreateErrorKind;
use bytes::Bytes;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::topology::JOBS_BUCKET;
use latentfarm_common::nats::{Connection, subjects};
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::{self, WireError};

use super::folder::write_durably;

const FILE_NAME: &str = "manifest.farm";

/// Whether the job is new to its folder and to the farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestState {
    /// Neither the job folder nor the farm had a manifest of this job.
    Created,
    /// The job folder or the farm had it already, so finished chunks may be found.
    Existing,
}

/// Why the manifest could not be read or stored, or differs from the one that is stored.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot {action} the job manifest `{}`", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the job manifest in {place} cannot be read")]
    Unreadable {
        place: String,
        #[source]
        source: WireError,
    },
    #[error("cannot encode the job manifest")]
    Encode(#[source] WireError),
    #[error(
        "{place} holds another manifest for this job: \
         use another work folder, or remove the old one to start afresh"
    )]
    Differs { place: String },
    #[error("cannot reach the farm's job bucket")]
    Bucket(#[source] async_nats::Error),
}

/// Reads the manifest of a job folder; `None` if the folder has none.
pub fn read(folder: &Path) -> Result<Option<JobSpec>, ManifestError> {
    let path = folder.join(FILE_NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let action = "read";
            return Err(ManifestError::File { action, path, source });
        }
    };
    decode(&bytes, format!("`{}`", path.display())).map(Some)
}

fn decode(bytes: &[u8], place: String) -> Result<JobSpec, ManifestError> {
    wire::decode(bytes).map_err(|source| ManifestError::Unreadable { place, source })
}

/// Creates the manifest in the job folder and in the farm's bucket unless it exists there. Another manifest
/// at either place is an error.
pub async fn ensure(
    connection: &Connection,
    folder: &Path,
    spec: &JobSpec,
) -> Result<ManifestState, ManifestError> {
    let in_folder = read(folder)?;
    if in_folder.as_ref().is_some_and(|found| found != spec) {
        return Err(ManifestError::Differs {
            place: format!("`{}`", folder.display()),
        });
    }
    let bytes = wire::encode(spec).map_err(ManifestError::Encode)?;
    let on_farm = create(connection, spec, &bytes).await?;
    if in_folder.is_none() {
        write(folder, &bytes)?;
    }
    Ok(match (in_folder, on_farm) {
        (None, ManifestState::Created) => ManifestState::Created,
        (Some(_), _) | (None, ManifestState::Existing) => ManifestState::Existing,
    })
}

/// Reads the manifest of a job from the farm's bucket; `None` if the farm has none.
pub async fn read_from_farm(connection: &Connection, job: JobId) -> Result<Option<JobSpec>, ManifestError> {
    let failed = |source: async_nats::Error| ManifestError::Bucket(source);
    let bucket = connection.context.get_key_value(JOBS_BUCKET).await;
    let bucket = bucket.map_err(|error| failed(error.into()))?;
    let found = bucket.get(&subjects::manifest_key(job)).await;
    let found = found.map_err(|error| failed(error.into()))?;
    found
        .map(|bytes| decode(&bytes, "the farm".to_owned()))
        .transpose()
}

/// Creates the manifest in the farm's bucket unless it exists there. Another manifest of the job is an error.
pub async fn store_on_farm(connection: &Connection, spec: &JobSpec) -> Result<ManifestState, ManifestError> {
    let bytes = wire::encode(spec).map_err(ManifestError::Encode)?;
    create(connection, spec, &bytes).await
}

async fn create(
    connection: &Connection,
    spec: &JobSpec,
    bytes: &[u8],
) -> Result<ManifestState, ManifestError> {
    let failed = |source: async_nats::Error| ManifestError::Bucket(source);
    let bucket = connection.context.get_key_value(JOBS_BUCKET).await;
    let bucket = bucket.map_err(|error| failed(error.into()))?;
    let key = subjects::manifest_key(spec.id);
    match bucket.create(&key, Bytes::copy_from_slice(bytes)).await {
        Ok(_) => return Ok(ManifestState::Created),
        Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error.into())),
    }
    let found = bucket.get(&key).await.map_err(|error| failed(error.into()))?;
    let place = "the farm".to_owned();
    let found = found.map(|bytes| decode(&bytes, place.clone())).transpose()?;
    if found.is_some_and(|found| found == *spec) {
        Ok(ManifestState::Existing)
    } else {
        Err(ManifestError::Differs { place })
    }
}

fn write(folder: &Path, bytes: &[u8]) -> Result<(), ManifestError> {
    let path = folder.join(FILE_NAME);
    let written = fs::create_dir_all(folder).and_then(|()| write_durably(&path, bytes));
    written.map_err(|source| ManifestError::File {
        action: "write",
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_manifest_has_none_and_a_broken_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        write(folder.path(), b"not a manifest").unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("manifest.farm") && error.contains("cannot be read"),
            "{error}"
        );
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_not_a_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(FILE_NAME)).unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("cannot read") && error.contains("manifest.farm"),
            "{error}"
        );
    }
}
