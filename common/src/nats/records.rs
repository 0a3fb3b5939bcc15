//! The farm's records as its server stores them: the done log, and the buckets of jobs and of what was learned. A backup
//! copies them without decoding them, signatures included.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use serde::{Deserialize, Serialize};

use super::connect::Connection;
use super::direct::{DirectReader, last_of};
use super::error::StreamError;
use super::lease::is_marker;
use super::signature::{KEY_HEADER, SIGNATURE_HEADER};
use super::subjects::values;
use super::topology::{DONE, JOBS_BUCKET, JOBS_STREAM, NEEDS_BUCKET, NEEDS_STREAM};

/// A stream of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecordStream {
    /// What is done.
    Done,
    /// Measured memory requirements and frame times.
    Needs,
    /// Manifests, orders, records, and segments of jobs, and the keys of workers.
    Jobs,
}

impl RecordStream {
    /// All of them, in the order in which a backup reads them: what is done before the jobs that it belongs to, so that a
    /// job that is done meanwhile is copied with too few done records, not with too many.
    pub const ALL: [Self; 3] = [Self::Done, Self::Needs, Self::Jobs];

    /// Returns the name of the stream.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => DONE,
            Self::Needs => NEEDS_STREAM,
            Self::Jobs => JOBS_STREAM,
        }
    }

    /// Returns the filter for the subjects of its records.
    fn filter(self) -> String {
        match self {
            Self::Done => "farm.done.>".to_owned(),
            Self::Needs => values(NEEDS_BUCKET, ">"),
            Self::Jobs => values(JOBS_BUCKET, ">"),
        }
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRecord {
    /// The stream that has it.
    pub stream: RecordStream,
    /// Its subject.
    pub subject: String,
    /// The public key and the signature of a done record, as they stand in its headers.
    pub signature: Option<(String, String)>,
    /// Its envelope, or the text of a worker's keys.
    pub payload: Vec<u8>,
}

impl StoredRecord {
    fn of(stream: RecordStream, message: StreamMessage) -> Self {
        let header = |name| message.headers.get(name).map(|value| value.as_str().to_owned());
        Self {
            stream,
            signature: header(KEY_HEADER).zip(header(SIGNATURE_HEADER)),
            subject: message.subject.into_string(),
            payload: message.payload.to_vec(),
        }
    }

    /// Whether the record lies where its stream has records, so that nothing else can be written with it.
    pub fn is_in_place(&self) -> bool {
        let filter = self.stream.filter();
        let key = self.subject.strip_prefix(filter.trim_end_matches('>'));
        key.is_some_and(|key| {
            let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '*' && c != '>';
            key.chars().all(is_plain) && key.split('.').all(|token| !token.is_empty())
        })
    }

    /// Returns the message that stores the record.
    fn message(&self) -> PublishMessage {
        let mut headers = HeaderMap::new();
        if let Some((key, signature)) = &self.signature {
            headers.insert(KEY_HEADER, key.as_str());
            headers.insert(SIGNATURE_HEADER, signature.as_str());
        }
        let message = PublishMessage::build()
            .headers(headers)
            .expected_stream(self.stream.name())
            .payload(self.payload.clone().into());
        match self.stream {
            RecordStream::Done => message.expected_last_subject_sequence(0),
            RecordStream::Needs | RecordStream::Jobs => message,
        }
    }

    /// Whether the farm has this very record.
    async fn is_stored(&self, connection: &Connection) -> Result<bool, async_nats::Error> {
        let found = last_of(&connection.context, self.stream.name(), &self.subject).await?;
        Ok(found.is_some_and(|message| StoredRecord::of(self.stream, message) == *self))
    }
}

/// Reads the records that a stream has now; of the values of a key the last. What is written meanwhile is not read.
pub async fn read(connection: &Connection, stream: RecordStream) -> Result<Vec<StoredRecord>, StreamError> {
    let name = stream.name();
    let found = connection.context.get_stream(name).await;
    let found = found.map_err(|error| StreamError::new(format!("look up the stream {name}"), error))?;
    let last = found.cached_info().state.last_sequence;
    let mut reader = DirectReader::new(&connection.client, name, &stream.filter(), 1);
    let mut records = BTreeMap::new();
    while let Some(message) = reader.next().await? {
        if message.sequence > last {
            break;
        }
        if is_marker(&message.headers) {
            records.remove(message.subject.as_str());
        } else {
            let record = StoredRecord::of(stream, message);
            records.insert(record.subject.clone(), record);
        }
    }
    Ok(records.into_values().collect())
}

/// Stores records that the farm does not have. While the link is down it waits.
pub async fn write(connection: &Connection, records: &[StoredRecord]) -> Result<(), StreamError> {
    let written = || async {
        let mut sent = Vec::new();
        for record in records {
            let failed = |cause: async_nats::Error| {
                StreamError::new(format!("store the record `{}`", record.subject), cause)
            };
            let message = record.message();
            let publish = connection
                .context
                .send_publish(record.subject.clone(), message)
                .await;
            sent.push((publish.map_err(|error| failed(error.into()))?, failed));
        }
        for ((acknowledged, failed), record) in sent.into_iter().zip(records) {
            match acknowledged.await {
                Ok(_) => {}
                // An earlier try, whose answer was lost, may have stored it.
                Err(error)
                    if error.kind() == PublishErrorKind::WrongLastSequence
                        && record.is_stored(connection).await.map_err(&failed)? => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(())
    };
    connection.outlast(written).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_belongs_to_its_stream_only() {
        let record = |stream, subject: &str| StoredRecord {
            stream,
            subject: subject.to_owned(),
            signature: None,
            payload: Vec::new(),
        };
        for (stream, subject) in [
            (RecordStream::Done, "farm.done.0123456789abcdef.r00001"),
            (RecordStream::Jobs, "$KV.farm-jobs.0123456789abcdef.order"),
            (RecordStream::Needs, "$KV.farm-needs.cpu.x"),
        ] {
            assert!(record(stream, subject).is_in_place(), "{subject}");
        }
        for (stream, subject) in [
            (RecordStream::Done, "farm.done."),
            (RecordStream::Done, "farm.task.g08.any.p1.x"),
            (RecordStream::Done, "farm.done.*.r00001"),
            (RecordStream::Jobs, "$KV.farm-lease.coordinator"),
            (RecordStream::Jobs, "$KV.farm-jobs.a b"),
            (RecordStream::Needs, "$KV.farm-jobs.0123456789abcdef.order"),
            (RecordStream::Needs, "$KV.farm-needs.a..b"),
        ] {
            assert!(!record(stream, subject).is_in_place(), "{subject}");
        }
    }
}
