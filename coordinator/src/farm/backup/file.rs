//! The file of a backup.
//!
//! ```text
//! header | records | blobs, each followed by its content | end
//! ```
//! Each entry is an envelope of the wire format with its length before it, so that a backup of another release is
//! recognised, and damage is found before anything is restored.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write};
use std::path::Path;

use latentfarm_common::digest::DigestWriter;
use latentfarm_common::nats::records::StoredRecord;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::pipe::{self, PipeError};
use latentfarm_common::wire::{Message, WireError};
use serde::{Deserialize, Serialize};

/// Bytes of a blob that are read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// One entry of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    Header(Header),
    Record(StoredRecord),
    /// The content of the blob follows.
    Blob(BlobRef),
    End(Totals),
}

impl Message for Entry {
    const KIND: u8 = 26;
}

/// What a backup begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The last revision of the coordinator's lease. Attempts are numbered by epochs, which are not above it.
    pub(super) epoch: u64,
}

/// How much a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Records of jobs, of what is done, and of what was learned.
    pub records: u64,
    pub blobs: u64,
    /// Bytes of the blobs together.
    pub blob_bytes: u64,
}

impl Totals {
    fn add(&mut self, entry: &Entry) {
        match entry {
            Entry::Record(_) => self.records += 1,
            Entry::Blob(blob) => {
                self.blobs += 1;
                self.blob_bytes = self.blob_bytes.saturating_add(blob.bytes);
            }
            Entry::Header(_) | Entry::End(_) => {}
        }
    }
}

/// Why a file cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupFileError {
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("it is no backup of a farm")]
    NoBackup,
    #[error("another release wrote it: restore it with that release")]
    OtherRelease(#[source] WireError),
    #[error("it is not whole: it ends before its last entry")]
    CutShort,
    #[error("it is damaged")]
    Damaged(#[source] Option<PipeError>),
}

/// Writes a backup.
#[derive(Debug)]
pub(super) struct BackupWriter<W: Write> {
    file: BufWriter<W>,
    totals: Totals,
}

impl<W: Write> BackupWriter<W> {
    pub(super) fn begin(file: W, header: Header) -> io::Result<Self> {
        let (file, totals) = (BufWriter::new(file), Totals::default());
        let mut writer = Self { file, totals };
        writer.write(&Entry::Header(header))?;
        Ok(writer)
    }

    pub(super) fn record(&mut self, record: StoredRecord) -> io::Result<()> {
        self.write(&Entry::Record(record))
    }

    /// Writes a blob whose content is in a file.
    pub(super) fn blob(&mut self, blob: BlobRef, content: &Path) -> io::Result<()> {
        self.write(&Entry::Blob(blob))?;
        let copied = io::copy(&mut File::open(content)?.take(blob.bytes), &mut self.file)?;
        if copied == blob.bytes {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    pub(super) fn end(mut self) -> io::Result<Totals> {
        self.write(&Entry::End(self.totals))?;
        self.file.flush()?;
        Ok(self.totals)
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        self.totals.add(entry);
        let bytes = pipe::encode(entry).map_err(io::Error::other)?;
        self.file.write_all(&bytes)
    }
}

/// Reads a backup from its beginning. The content of a blob is passed over unless it is copied.
#[derive(Debug)]
pub(super) struct BackupReader<'a> {
    file: BufReader<&'a File>,
    /// Bytes of the current blob that were not read.
    unread: u64,
}

impl<'a> BackupReader<'a> {
    /// Begins to read a file, in which no other reader may be.
    pub(super) fn begin(mut file: &'a File) -> Result<(Self, Header), BackupFileError> {
        file.rewind().map_err(BackupFileError::Read)?;
        let file = BufReader::new(file);
        let mut reader = Self { file, unread: 0 };
        match reader.next() {
            Ok(Entry::Header(header)) => Ok((reader, header)),
            Ok(_) | Err(BackupFileError::Damaged(_) | BackupFileError::CutShort) => {
                Err(BackupFileError::NoBackup)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the next entry.
    pub(super) fn next(&mut self) -> Result<Entry, BackupFileError> {
        let unread = i64::try_from(std::mem::take(&mut self.unread));
        let unread = unread.map_err(|_| BackupFileError::Damaged(None))?;
        self.file.seek_relative(unread).map_err(BackupFileError::Read)?;
        let entry = match pipe::read::<Entry>(&mut self.file) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(BackupFileError::CutShort),
            Err(PipeError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(BackupFileError::CutShort);
            }
            Err(PipeError::Io(error)) => return Err(BackupFileError::Read(error)),
            Err(PipeError::Wire(error @ WireError::UnknownSchema { .. })) => {
                return Err(BackupFileError::OtherRelease(error));
            }
            Err(error) => return Err(BackupFileError::Damaged(Some(error))),
        };
        if let Entry::Blob(blob) = entry {
            self.unread = blob.bytes;
        }
        Ok(entry)
    }

    /// Copies the content of the blob that was read last, and checks it.
    pub(super) fn copy(&mut self, blob: BlobRef, to: &mut impl Write) -> Result<(), CopyError> {
        let mut digest = DigestWriter::new();
        let mut piece = vec![0; PIECE_BYTES];
        while self.unread > 0 {
            let len = usize::try_from(self.unread).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let piece = &mut piece[..len];
            self.file.read_exact(piece).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => BackupFileError::CutShort,
                _ => BackupFileError::Read(error),
            })?;
            digest.update(piece);
            to.write_all(piece).map_err(CopyError::Write)?;
            self.unread -= len as u64;
        }
        if digest.finish() == (blob.digest, blob.bytes) {
            Ok(())
        } else {
            Err(BackupFileError::Damaged(None).into())
        }
    }

    /// Reads what follows the header, and checks that nothing is missing or damaged.
    pub(super) fn check(mut self) -> Result<Totals, BackupFileError> {
        let mut totals = Totals::default();
        loop {
            let entry = self.next()?;
            totals.add(&entry);
            match entry {
                Entry::Record(record) if record.is_in_place() => {}
                Entry::Blob(blob) => match self.copy(blob, &mut io::sink()) {
                    Ok(()) => {}
                    Err(CopyError::File(error)) => return Err(error),
                    Err(CopyError::Write(error)) => return Err(BackupFileError::Read(error)),
                },
                Entry::End(stated) if stated == totals => break,
                Entry::Header(_) | Entry::Record(_) | Entry::End(_) => {
                    return Err(BackupFileError::Damaged(None));
                }
            }
        }
        match self.file.read(&mut [0]) {
            Ok(0) => Ok(totals),
            Ok(_) => Err(BackupFileError::Damaged(None)),
            Err(error) => Err(BackupFileError::Read(error)),
        }
    }
}

/// Why the content of a blob cannot be copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error(transparent)]
    File(#[from] BackupFileError),
    #[error("cannot write a temporary file")]
    Write(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::nats::records::RecordStream;

    fn write(dir: &Path) -> Vec<u8> {
        let content = dir.join("content");
        std::fs::write(&content, [7; 300]).unwrap();
        let header = Header { epoch: 9 };
        let mut bytes = Vec::new();
        let mut writer = BackupWriter::begin(&mut bytes, header).unwrap();
        writer
            .record(StoredRecord {
                stream: RecordStream::Done,
                subject: "farm.done.0123456789abcdef.r00001".to_owned(),
                signature: Some(("key".to_owned(), "signature".to_owned())),
                payload: b"a record".to_vec(),
            })
            .unwrap();
        let (digest, len) = Digest::of_file(&content).unwrap();
        writer.blob(BlobRef { digest, bytes: len }, &content).unwrap();
        let totals = writer.end().unwrap();
        assert_eq!(
            totals,
            Totals {
                records: 1,
                blobs: 1,
                blob_bytes: 300
            }
        );
        bytes
    }

    fn check(dir: &Path, bytes: &[u8]) -> Result<Totals, BackupFileError> {
        let path = dir.join("backup");
        std::fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        let (reader, header) = BackupReader::begin(&file)?;
        assert_eq!(header.epoch, 9);
        reader.check()
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let whole = write(dir.path());
        assert_eq!(check(dir.path(), &whole).unwrap().records, 1);
        for len in 0..whole.len() {
            let cut = check(dir.path(), &whole[..len]);
            assert!(
                matches!(
                    cut,
                    Err(BackupFileError::CutShort | BackupFileError::NoBackup | BackupFileError::Damaged(_))
                ),
                "{len} bytes: {cut:?}"
            );
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(check(dir.path(), &flipped).is_err(), "byte {at}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(check(dir.path(), &longer).is_err());
    }

    #[test]
    fn what_another_release_wrote_is_named_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = write(dir.path());
        // After the length and the magic number.
        other[8] ^= 1;
        let refused = check(dir.path(), &other);
        assert!(
            matches!(refused, Err(BackupFileError::OtherRelease(_))),
            "{refused:?}"
        );
    }
}
