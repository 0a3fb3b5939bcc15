//! Shares a folder of weights with the workers of a farm: its files become blobs of the farm's store.
//! `latentfarm share-weights` calls it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::shared_weights::{self, SharedWeightsError};
use latentfarm_common::nats::{Connection, StreamError};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::weights::{SharedFile, SharedWeights};
use tokio::task::spawn_blocking;

use crate::render::WeightsInfo;

/// What an interrupted command has stored of a file is removed when it is this old.
const LEFT_OVER_AFTER: Duration = Duration::from_hours(1);

/// Why weights could not be shared. What was stored of them is not stored again by the next try.
#[derive(Debug, thiserror::Error)]
pub enum ShareWeightsError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot store `{}`", path.display())]
    Store {
        path: PathBuf,
        #[source]
        source: BlobError,
    },
    #[error("cannot open the farm's store of weights")]
    Open(#[source] BlobError),
    #[error("the files of the weights do not all lie in their folder")]
    Unsound,
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Weights that a farm shares.
#[derive(Clone, Debug)]
pub struct ShareOutcome {
    /// The files.
    pub list: SharedWeights,
    /// The number of files that had to be stored.
    pub stored: usize,
    /// Whether all of it was there before.
    pub was_shared: bool,
}

/// Stores the files of a folder of weights, as `info` lists them, in the farm's store, and their list under the digest
/// that identifies them. What is there already, undamaged, is not sent again. `begins` is called with the path of each
/// file before it is stored.
pub async fn share_weights(
    connection: &Connection,
    dir: &Path,
    info: &WeightsInfo,
    mut begins: impl FnMut(&Path),
) -> Result<ShareOutcome, ShareWeightsError> {
    shared_weights::ensure_bucket(connection).await?;
    let store = shared_weights::store(connection).map_err(ShareWeightsError::Open)?;
    let mut files = Vec::new();
    let mut stored = 0;
    for name in &info.files {
        let path = dir.join(name);
        let failed = |source| ShareWeightsError::Store {
            path: path.clone(),
            source,
        };
        let mut blob = digest(&path).await?;
        if !connection.outlast(|| store.has(&blob)).await.map_err(failed)? {
            begins(&path);
            blob = connection
                .outlast(|| store.put_file(&path))
                .await
                .map_err(failed)?;
            stored += 1;
        }
        files.push(SharedFile {
            path: name.clone(),
            blob,
        });
    }
    let list = SharedWeights { files };
    if !list.is_sound() {
        return Err(ShareWeightsError::Unsound);
    }
    let known = connection
        .outlast(|| shared_weights::find(connection, info.identity))
        .await;
    let known = match known {
        Ok(known) => known,
        // It is replaced.
        Err(SharedWeightsError::Damaged(_) | SharedWeightsError::Unsound) => None,
        Err(SharedWeightsError::Stream(error)) => return Err(error.into()),
    };
    let is_listed = known.is_some_and(|known| known == list);
    if !is_listed {
        // Workers find the weights only once all files are there.
        shared_weights::publish(connection, info.identity, &list).await?;
    }
    if let Err(error) = remove_leftovers(&store).await {
        tracing::warn!(
            error = one_line(&error),
            "cannot remove what interrupted commands left in the store"
        );
    }
    Ok(ShareOutcome {
        list,
        stored,
        was_shared: is_listed && stored == 0,
    })
}

async fn digest(path: &Path) -> Result<BlobRef, ShareWeightsError> {
    let read = path.to_owned();
    let read = spawn_blocking(move || Digest::of_file(&read)).await;
    match read.map_err(io::Error::other) {
        Ok(Ok((digest, bytes))) => Ok(BlobRef { digest, bytes }),
        Ok(Err(source)) | Err(source) => Err(ShareWeightsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Removes files that were stored in part, and damaged ones that were stored again since.
async fn remove_leftovers(store: &Store) -> Result<(), BlobError> {
    let listed = store.objects().await?;
    store.remove_leftovers(&listed, LEFT_OVER_AFTER).await.map(drop)
}
