//! Heartbeats as messages: a worker publishes them, with the key by which its done records are recognised. The
//! server's permissions tie the subject of a heartbeat to the worker's key, so who reads one can rely on its subject,
//! and [`read`] refuses one that names another worker.

use async_nats::{HeaderMap, Message, PublishError};

use super::connect::Connection;
use super::signature::{KEY_HEADER, PublicKey};
use super::subjects::Subject;
use crate::ids::WorkerId;
use crate::wire::outcome::Heartbeat;
use crate::wire::{self, WireError};

/// Why a heartbeat was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The heartbeat is too long.
    #[error(transparent)]
    Encode(#[from] WireError),
    /// The client has ended.
    #[error("cannot publish")]
    Publish(#[from] PublishError),
}

/// Publishes a heartbeat, with the public key of the connection if it has one.
pub async fn publish(connection: &Connection, heartbeat: &Heartbeat) -> Result<(), SendError> {
    let subject = Subject::Heartbeat(heartbeat.worker.clone()).to_string();
    let payload = wire::encode(heartbeat)?.into();
    match connection.key() {
        Some(key) => {
            let mut headers = HeaderMap::new();
            headers.insert(KEY_HEADER, key.to_string());
            let sent = connection.client.publish_with_headers(subject, headers, payload);
            sent.await?;
        }
        None => connection.client.publish(subject, payload).await?,
    }
    Ok(())
}

/// Why a message is no heartbeat that counts.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The content cannot be decoded.
    #[error(transparent)]
    Decode(#[from] WireError),
    /// The heartbeat was sent under the name of another worker.
    #[error("it names worker `{named}`, and not the one whose subject it has")]
    OtherWorker {
        /// The worker that the heartbeat names.
        named: WorkerId,
    },
}

/// Reads a heartbeat, and the public key that its worker announces, if it has one.
pub fn read(message: &Message) -> Result<(Heartbeat, Option<PublicKey>), ReadError> {
    let heartbeat: Heartbeat = wire::decode(&message.payload)?;
    let subject = Subject::Heartbeat(heartbeat.worker.clone()).to_string();
    if subject != message.subject.as_str() {
        let named = heartbeat.worker;
        return Err(ReadError::OtherWorker { named });
    }
    let key = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(KEY_HEADER));
    // What is no key is none: a worker cannot sign with it.
    let key = key.and_then(|key| key.as_str().parse().ok());
    Ok((heartbeat, key))
}
