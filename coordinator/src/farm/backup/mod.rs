//! Backups of a farm: a file with its truth, from which another server goes on. `latentfarm backup` and `latentfarm
//! restore` call this.
//!
//! A backup is made while the farm works. What it misses of that time is rendered again: a done record without its blob
//! is retracted, and a chunk without a done record is queued. Tasks, events and the coordinator's lease are not copied,
//! since the next coordinator makes them.

mod file;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use latentfarm_common::blob::BlobError;
use latentfarm_common::digest::Digest;
use latentfarm_common::nats::epochs;
use latentfarm_common::nats::lease::{self, Contention, Lease, LeaseError, LeaseTtl};
use latentfarm_common::nats::records::{self, RecordStream, StoredRecord};
use latentfarm_common::nats::subjects::{keys_of_workers, values};
use latentfarm_common::nats::topology::JOBS_BUCKET;
use latentfarm_common::nats::{Connection, StreamError};
use latentfarm_common::wire::blob::BlobRef;

use crate::dispatch::{Farm, FarmError};
use file::{BackupReader, BackupWriter, CopyError, Entry, Header};

pub use file::{BackupFileError, Totals};

/// The digests of records, by their streams and subjects.
type Known = BTreeMap<(RecordStream, String), Digest>;

/// Number of records that are sent before the first of them is acknowledged.
const IN_FLIGHT: usize = 64;

/// How far a backup or its restoration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub blob_bytes: u64,
    /// Bytes of all blobs.
    pub of_bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot read the farm's records")]
    Records(#[from] StreamError),
    #[error("cannot read the farm's blobs")]
    Blobs(#[from] BlobError),
    #[error("cannot write the backup")]
    Write(#[from] io::Error),
}

/// Why a backup was not restored, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("cannot use the backup")]
    File(#[from] BackupFileError),
    #[error(transparent)]
    Farm(#[from] FarmError),
    #[error("the farm is in use")]
    InUse(#[source] LeaseError),
    #[error("another coordinator has begun to work on the farm meanwhile: interrupt it, and restore again")]
    Taken,
    #[error("cannot use the farm's lease")]
    Lease(#[source] LeaseError),
    /// Nothing was changed.
    #[error(
        "the farm has jobs already ({what}), and what it has would be mixed with the backup: restore into a new folder, or \
         on a server without a farm"
    )]
    NotEmpty { what: String },
    #[error("cannot use the farm's records")]
    Records(#[from] StreamError),
    #[error("cannot store a blob")]
    Blobs(#[from] BlobError),
    #[error("cannot use temporary files")]
    Scratch(#[from] io::Error),
}

impl From<CopyError> for RestoreError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::File(error) => error.into(),
            CopyError::Write(error) => error.into(),
        }
    }
}

impl RestoreError {
    /// Whether another file, or another farm, would do.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::File(_) | Self::NotEmpty { .. } | Self::InUse(_) | Self::Farm(FarmError::OtherSchema(_))
        )
    }
}

/// A backup that was read once, and is whole and undamaged.
#[derive(Debug)]
pub struct Backup {
    file: File,
    header: Header,
    totals: Totals,
}

impl Backup {
    /// Checks a file.
    pub fn check(file: File) -> Result<Self, BackupFileError> {
        let (reader, header) = BackupReader::begin(&file)?;
        let totals = reader.check()?;
        Ok(Self { file, header, totals })
    }

    fn read(&self) -> Result<BackupReader<'_>, BackupFileError> {
        BackupReader::begin(&self.file).map(|(reader, _)| reader)
    }
}

/// Writes a backup of a farm: its records and, unless it is to be without, all blobs of its store. Blobs pass through the
/// folder `scratch`. `progress` is called after each blob.
pub async fn backup(
    farm: &Farm,
    with_blobs: bool,
    scratch: &Path,
    file: impl Write,
    mut progress: impl FnMut(Progress),
) -> Result<Totals, BackupError> {
    let connection = &farm.connection;
    let header = Header {
        epoch: epochs::last(connection).await?,
    };
    let mut writer = BackupWriter::begin(file, header)?;
    for stream in RecordStream::ALL {
        for record in connection.outlast(|| records::read(connection, stream)).await? {
            writer.record(record)?;
        }
    }
    let objects = if with_blobs {
        connection.outlast(|| farm.store.objects()).await?
    } else {
        Vec::new()
    };
    let mut done = Progress {
        blob_bytes: 0,
        of_bytes: objects.iter().map(|object| object.bytes).sum(),
    };
    let content = scratch.join("blob");
    for object in objects {
        let blob = BlobRef {
            digest: object.digest,
            bytes: object.bytes,
        };
        let fetched = connection
            .outlast(|| farm.store.get_to_file(&blob, &content))
            .await;
        match fetched {
            Ok(()) => writer.blob(blob, &content)?,
            // The coordinator has removed it meanwhile, or finds out as well.
            Err(error @ (BlobError::Missing { .. } | BlobError::Damaged { .. })) => {
                tracing::warn!(%error, "a blob is not in the backup");
            }
            Err(error) => return Err(error.into()),
        }
        done.blob_bytes += blob.bytes;
        progress(done);
    }
    Ok(writer.end()?)
}

/// Stores what a backup holds on a farm that has no jobs, or that an interrupted restoration of the same backup has
/// begun to fill. Keeps coordinators off the farm meanwhile. `progress` is called after each blob.
pub async fn restore(
    farm: &Farm,
    backup: &Backup,
    holder: &str,
    mut progress: impl FnMut(Progress),
) -> Result<Totals, RestoreError> {
    let connection = &farm.connection;
    farm.prepare().await?;
    if let Some(other) = lease::holder(connection).await.map_err(RestoreError::Lease)? {
        return Err(RestoreError::InUse(LeaseError::Held {
            time: LeaseTtl::default(),
            holder: other,
            revision: 0,
        }));
    }
    let known = present(connection).await?;
    if let Some((_, what)) = of_other_jobs(known.clone(), backup)? {
        return Err(RestoreError::NotEmpty { what });
    }
    epochs::raise_above(connection, backup.header.epoch).await?;
    let lease = Lease::acquire(connection, holder, LeaseTtl::default(), Contention::Refuse).await;
    let lease = lease.map_err(RestoreError::InUse)?;
    let stored = async {
        // Records come last, so that none is there without its blob if this is interrupted.
        store_blobs(farm, backup, &mut progress).await?;
        store_records(connection, backup, &known).await
    };
    let stored = tokio::select! {
        stored = stored => stored,
        () = lease.lost() => Err(RestoreError::Taken),
    };
    if lease.is_held() {
        lease.release().await;
    }
    stored.map(|()| backup.totals)
}

async fn store_blobs(
    farm: &Farm,
    backup: &Backup,
    progress: &mut impl FnMut(Progress),
) -> Result<(), RestoreError> {
    let mut reader = backup.read()?;
    let mut blob_bytes = 0;
    loop {
        let blob = match reader.next()? {
            Entry::Blob(blob) => blob,
            Entry::End(_) => return Ok(()),
            Entry::Header(_) | Entry::Record(_) => continue,
        };
        let mut content = tempfile::NamedTempFile::new()?;
        reader.copy(blob, &mut content)?;
        let put = || farm.store.put_file(content.path());
        farm.connection.outlast(put).await?;
        blob_bytes += blob.bytes;
        progress(Progress {
            blob_bytes,
            of_bytes: backup.totals.blob_bytes,
        });
    }
}

/// Stores the records that are not known to be there.
async fn store_records(connection: &Connection, backup: &Backup, known: &Known) -> Result<(), RestoreError> {
    let mut reader = backup.read()?;
    let mut waiting: Vec<StoredRecord> = Vec::new();
    loop {
        let entry = reader.next()?;
        let is_end = matches!(entry, Entry::End(_));
        if let Entry::Record(record) = entry {
            let key = (record.stream, record.subject.clone());
            if !known.contains_key(&key) {
                waiting.push(record);
            }
        }
        if waiting.len() == IN_FLIGHT || is_end {
            records::write(connection, &waiting).await?;
            waiting.clear();
        }
        if is_end {
            return Ok(());
        }
    }
}

/// Returns a record that the farm has of a job and that is not the backup's.
fn of_other_jobs(
    mut known: Known,
    backup: &Backup,
) -> Result<Option<(RecordStream, String)>, BackupFileError> {
    let mut reader = backup.read()?;
    loop {
        match reader.next()? {
            Entry::Record(record) => {
                let digest = Digest::of(&record.payload);
                let key = (record.stream, record.subject);
                if known.get(&key) == Some(&digest) {
                    known.remove(&key);
                }
            }
            Entry::End(_) => break,
            Entry::Header(_) | Entry::Blob(_) => {}
        }
    }
    let is_of_a_job = |(stream, subject): &(RecordStream, String)| !is_learned(*stream, subject);
    Ok(known.into_keys().find(is_of_a_job))
}

/// Returns the digests of the records that a farm has.
async fn present(connection: &Connection) -> Result<Known, StreamError> {
    let mut found = Known::new();
    for stream in RecordStream::ALL {
        for record in connection.outlast(|| records::read(connection, stream)).await? {
            let digest = Digest::of(&record.payload);
            found.insert((stream, record.subject), digest);
        }
    }
    Ok(found)
}

/// Whether a record is of what the farm has learned of its workers, which belongs to no job. What a farm knows already is
/// newer.
fn is_learned(stream: RecordStream, subject: &str) -> bool {
    let keys = values(JOBS_BUCKET, keys_of_workers().trim_end_matches('*'));
    match stream {
        RecordStream::Needs => true,
        RecordStream::Jobs => subject.starts_with(&keys),
        RecordStream::Done => false,
    }
}
