//! The blob store in a NATS object store, with the layout that every NATS client reads and writes.
//!
//! Put and get are our own: put has several chunks in flight (the library waits for each), and get uses
//! direct gets (the library creates a consumer, a permission that workers do not have).

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::object_store::{ObjectInfo, ObjectOptions};
use async_nats::jetstream::stream::{DirectGetError, DirectGetErrorKind};
use bytes::Bytes;
use data_encoding::BASE64URL;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::error::{BlobError, check_content};
use super::file::{Staged, blocking, file_error};
use crate::digest::{Digest, DigestWriter};
use crate::nats::direct::{DirectReader, last_of};
use crate::wire::blob::BlobRef;

const CHUNK_BYTES: usize = 512 << 10;
/// Number of chunks that may be unacknowledged at once; replicated streams refuse more.
const IN_FLIGHT: usize = 8;
/// The server must acknowledge a chunk within this time.
const ACK_LIMIT: Duration = Duration::from_secs(30);

/// An answer about an object is awaited for this long. Then the question is asked again, because a link that broke
/// and is back brings no answer.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(5);
/// Number of times that the question is asked.
const LOOK_UPS: u32 = 6;

/// The action that errors name if a put fails.
const STORE: &str = "store";
/// The action that errors name if an object's description cannot be read.
pub(super) const LOOK_UP: &str = "look up";

#[derive(Clone, Debug)]
pub(super) struct ObjectStore {
    bucket: String,
    pub(super) context: jetstream::Context,
    /// The context of questions about objects.
    pub(super) look_ups: jetstream::Context,
}

impl ObjectStore {
    pub(super) fn open(bucket: &str, client: &Client) -> Self {
        let context = jetstream::ContextBuilder::new()
            .timeout(ACK_LIMIT)
            .ack_timeout(ACK_LIMIT)
            .build(client.clone());
        let look_ups = jetstream::ContextBuilder::new()
            .timeout(LOOK_UP_LIMIT)
            .build(client.clone());
        Self {
            bucket: bucket.to_owned(),
            context,
            look_ups,
        }
    }

    pub(super) async fn put_file(&self, path: &Path) -> Result<BlobRef, BlobError> {
        let to_hash = path.to_path_buf();
        let (digest, bytes) =
            blocking(move || Digest::of_file(&to_hash).map_err(file_error("read", &to_hash))).await?;
        let blob = BlobRef { digest, bytes };
        if !self.is_present(&blob).await? {
            let file = File::open(path).await.map_err(file_error("open", path))?;
            self.put(&blob, file, path).await?;
        }
        Ok(blob)
    }

    pub(super) async fn put_bytes(&self, bytes: Vec<u8>) -> Result<BlobRef, BlobError> {
        let blob = BlobRef {
            digest: Digest::of(&bytes),
            bytes: bytes.len() as u64,
        };
        if !self.is_present(&blob).await? {
            self.put(&blob, &bytes[..], Path::new("memory")).await?;
        }
        Ok(blob)
    }

    pub(super) async fn get_to_file(&self, blob: &BlobRef, destination: &Path) -> Result<(), BlobError> {
        let beside = destination.to_path_buf();
        let mut staged = blocking(move || Staged::beside(&beside)).await?;
        let mut chunks = self.chunks(blob).await?;
        while let Some(chunk) = chunks.next().await? {
            staged = blocking(move || staged.write(&chunk).map(|()| staged)).await?;
        }
        let destination = destination.to_path_buf();
        blocking(move || staged.publish(&destination)).await
    }

    pub(super) async fn get_bytes(&self, blob: &BlobRef) -> Result<Vec<u8>, BlobError> {
        let mut chunks = self.chunks(blob).await?;
        let mut bytes = Vec::with_capacity(usize::try_from(blob.bytes).unwrap_or(0));
        while let Some(chunk) = chunks.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    pub(super) async fn verify(&self, blob: &BlobRef) -> Result<(), BlobError> {
        let mut chunks = self.chunks(blob).await?;
        while chunks.next().await?.is_some() {}
        Ok(())
    }

    pub(super) async fn check(&self, blob: &BlobRef) -> Result<(), BlobError> {
        self.info(blob).await.map(|_found| ())
    }

    /// Whether the blob is there and undamaged; then it is young again, so that the coordinator does not take it for
    /// one that nobody needs. A damaged blob is put again; a chunk that is rendered again stores the same content
    /// again.
    async fn is_present(&self, blob: &BlobRef) -> Result<bool, BlobError> {
        let found = async {
            let (info, sequence) = self.info(blob).await?;
            let mut chunks = self.chunks_of(blob, &info);
            while chunks.next().await?.is_some() {}
            Ok((info, sequence))
        };
        match found.await {
            Ok((info, sequence)) => self.touch(blob, &info, sequence).await,
            Err(BlobError::Missing { .. } | BlobError::WrongSize { .. } | BlobError::Damaged { .. }) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Stores the description of an object again, unless it has gone meanwhile. Returns whether it is there.
    async fn touch(&self, blob: &BlobRef, info: &ObjectInfo, sequence: u64) -> Result<bool, BlobError> {
        let message = self
            .description(blob, info)?
            .expected_last_subject_sequence(sequence);
        let publish = self
            .context
            .send_publish(self.meta_subject(blob.digest), message)
            .await;
        match publish.map_err(self.failed(STORE, blob))?.await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                // It was put again by another, or it is gone.
                match self.info(blob).await {
                    Ok(_) => Ok(true),
                    Err(BlobError::Missing { .. }) => Ok(false),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(self.failed(STORE, blob)(error)),
        }
    }

    /// Returns the message that stores a description in place of an earlier one.
    fn description(&self, blob: &BlobRef, info: &ObjectInfo) -> Result<PublishMessage, BlobError> {
        let payload = serde_json::to_vec(info).map_err(self.failed(STORE, blob))?;
        Ok(PublishMessage::build()
            .header(async_nats::header::NATS_ROLLUP, "sub")
            .payload(payload.into()))
    }

    /// Returns the object's description and its sequence number, after checking that the object is there and has the
    /// right size.
    async fn info(&self, blob: &BlobRef) -> Result<(ObjectInfo, u64), BlobError> {
        let missing = || BlobError::Missing {
            digest: blob.digest,
            place: self.place(),
        };
        let (stream, subject) = (self.stream(), self.meta_subject(blob.digest));
        let mut stored = last_of(&self.look_ups, &stream, &subject).await;
        for _ in 1..LOOK_UPS {
            if !stored.as_ref().is_err_and(|error| is_unanswered(error.as_ref())) {
                break;
            }
            stored = last_of(&self.look_ups, &stream, &subject).await;
        }
        let message = stored.map_err(self.failed(LOOK_UP, blob))?.ok_or_else(missing)?;
        let info: ObjectInfo =
            serde_json::from_slice(&message.payload).map_err(self.failed(LOOK_UP, blob))?;
        if info.deleted {
            return Err(missing());
        }
        let found_bytes = info.size as u64;
        if found_bytes != blob.bytes {
            return Err(BlobError::WrongSize {
                digest: blob.digest,
                place: self.place(),
                bytes: blob.bytes,
                found_bytes,
            });
        }
        Ok((info, message.sequence))
    }

    async fn chunks(&self, blob: &BlobRef) -> Result<Chunks, BlobError> {
        let (info, _sequence) = self.info(blob).await?;
        Ok(self.chunks_of(blob, &info))
    }

    fn chunks_of(&self, blob: &BlobRef, info: &ObjectInfo) -> Chunks {
        let subject = self.chunk_subject(&info.nuid);
        Chunks {
            blob: *blob,
            place: self.place(),
            reader: DirectReader::new(&self.context.client(), &self.stream(), &subject, 1),
            digest: DigestWriter::new(),
            left: info.chunks,
        }
    }

    async fn put(
        &self,
        blob: &BlobRef,
        mut reader: impl AsyncRead + Unpin,
        from: &Path,
    ) -> Result<(), BlobError> {
        // The chunks get a new name, so that an interrupted put leaves nothing but unreferenced chunks.
        let inbox = self.context.client().new_inbox();
        let nuid = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
        let subject = self.chunk_subject(&nuid);
        let mut in_flight: VecDeque<PublishAckFuture> = VecDeque::with_capacity(IN_FLIGHT);
        let mut sent = DigestWriter::new();
        let mut chunks = 0;
        loop {
            let chunk = read_chunk(&mut reader).await.map_err(file_error("read", from))?;
            if chunk.is_empty() {
                break;
            }
            sent.update(&chunk);
            chunks += 1;
            if in_flight.len() == IN_FLIGHT
                && let Some(oldest) = in_flight.pop_front()
            {
                oldest.await.map_err(self.failed(STORE, blob))?;
            }
            let publish = self.context.publish(subject.clone(), chunk).await;
            in_flight.push_back(publish.map_err(self.failed(STORE, blob))?);
        }
        for ack in in_flight {
            ack.await.map_err(self.failed(STORE, blob))?;
        }
        // A file that changed between hashing and sending must not be stored under its old digest.
        let (digest, bytes) = sent.finish();
        check_content(blob, digest, bytes, &format!("`{}`", from.display()))?;
        let info = self.describe(blob, nuid, chunks);
        let message = self.description(blob, &info)?;
        let publish = self
            .context
            .send_publish(self.meta_subject(blob.digest), message)
            .await;
        let ack = publish.map_err(self.failed(STORE, blob))?.await;
        ack.map(|_| ()).map_err(self.failed(STORE, blob))
    }

    /// Returns the conversion of a NATS error to a [`BlobError`] that names the action and the blob, for
    /// `map_err`.
    pub(super) fn failed<E: Into<async_nats::Error>>(
        &self,
        action: &'static str,
        blob: &BlobRef,
    ) -> impl FnOnce(E) -> BlobError {
        move |source| BlobError::Nats {
            action,
            digest: blob.digest,
            place: self.place(),
            source: source.into(),
        }
    }

    fn describe(&self, blob: &BlobRef, nuid: String, chunks: usize) -> ObjectInfo {
        ObjectInfo {
            name: blob.digest.to_string(),
            description: None,
            metadata: std::collections::HashMap::default(),
            headers: None,
            options: Some(ObjectOptions {
                link: None,
                max_chunk_size: Some(CHUNK_BYTES),
            }),
            bucket: self.bucket.clone(),
            nuid,
            size: usize::try_from(blob.bytes).unwrap_or(usize::MAX),
            chunks,
            modified: None,
            digest: Some(format!("SHA-256={}", BASE64URL.encode(blob.digest.as_bytes()))),
            deleted: false,
        }
    }

    pub(super) fn stream(&self) -> String {
        format!("OBJ_{}", self.bucket)
    }

    pub(super) fn chunk_subject(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.bucket)
    }

    /// Filter for the descriptions of all objects.
    pub(super) fn descriptions(&self) -> String {
        format!("$O.{}.M.*", self.bucket)
    }

    pub(super) fn meta_subject(&self, digest: Digest) -> String {
        format!(
            "$O.{}.M.{}",
            self.bucket,
            BASE64URL.encode(digest.to_string().as_bytes())
        )
    }

    fn place(&self) -> String {
        format!("object store {}", self.bucket)
    }
}

/// Whether a question got no answer in time.
fn is_unanswered(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<DirectGetError>()
        .is_some_and(|error| error.kind() == DirectGetErrorKind::TimedOut)
}

/// Reads an object's chunks in order. At the end it fails if they do not have the blob's digest.
struct Chunks {
    blob: BlobRef,
    place: String,
    reader: DirectReader,
    digest: DigestWriter,
    left: usize,
}

impl Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.left > 0 {
            let message = self.reader.next().await.map_err(|source| BlobError::Nats {
                action: "read",
                digest: self.blob.digest,
                place: self.place.clone(),
                source: source.into(),
            })?;
            if let Some(message) = message {
                self.left -= 1;
                self.digest.update(&message.payload);
                // What is longer than announced is not written to its end.
                if self.digest.bytes() <= self.blob.bytes {
                    return Ok(Some(message.payload));
                }
            }
        }
        let (digest, bytes) = std::mem::take(&mut self.digest).finish();
        check_content(&self.blob, digest, bytes, &self.place)?;
        Ok(None)
    }
}

/// Reads a full chunk, or the rest if it is shorter.
async fn read_chunk(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    reader.take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await?;
    Ok(chunk.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names_are_written_as_every_client_writes_them() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(BASE64URL.encode(bytes.as_bytes()), text);
        }
        assert_eq!(BASE64URL.encode(&[0xfb, 0xff]), "-_8=");
    }
}
