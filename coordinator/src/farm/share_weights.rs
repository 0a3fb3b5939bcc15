//! Shares a folder of weights with the workers of a farm: its files become blobs of the farm's store.

use std::path::{Path, PathBuf};

use latentfarm_common::blob::BlobError;
use latentfarm_common::nats::{Connection, StreamError, shared_weights};
use latentfarm_common::wire::weights::{SharedFile, SharedWeights};

use crate::render::WeightsInfo;

/// Why weights could not be shared. What was stored of them is not stored again by the next try.
#[derive(Debug, thiserror::Error)]
pub enum ShareWeightsError {
    #[error("cannot store `{}`", path.display())]
    Store {
        path: PathBuf,
        #[source]
        source: BlobError,
    },
    #[error("cannot open the farm's store of weights")]
    Open(#[source] BlobError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Stores the files of a folder of weights, as `info` lists them, in the farm's store, and their list under the digest
/// that identifies them. A file that is there already is not sent again. `begins` is called with the path of each file
/// before it is stored.
pub async fn share_weights(
    connection: &Connection,
    dir: &Path,
    info: &WeightsInfo,
    mut begins: impl FnMut(&Path),
) -> Result<SharedWeights, ShareWeightsError> {
    shared_weights::ensure_bucket(connection).await?;
    let store = shared_weights::store(connection).map_err(ShareWeightsError::Open)?;
    let mut files = Vec::new();
    for name in &info.files {
        let path = dir.join(name);
        begins(&path);
        let blob = connection.outlast(|| store.put_file(&path)).await;
        let blob = blob.map_err(|source| ShareWeightsError::Store { path, source })?;
        files.push(SharedFile {
            path: name.clone(),
            blob,
        });
    }
    let list = SharedWeights { files };
    // Workers find the weights only once all files are there.
    shared_weights::publish(connection, info.identity, &list).await?;
    Ok(list)
}
