//! A connection to a NATS server, with settings that notice a dead link in seconds and never give up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use tokio::sync::watch;
use tokio::time::Instant;

use super::role::Role;
use super::version::ServerVersion;
use crate::backoff::Backoff;

/// A link without an answer to two pings is dead: seen after 10 to 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For every request and publish acknowledgement.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const AFTER_RECONNECT: Duration = Duration::from_millis(500);
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(25), Duration::from_millis(500));
const FIRST_CONNECT: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Holds the nkey seed of whoever connects.
pub const SEED_VARIABLE: &str = "LATENTFARM_NKEY_SEED";

/// How long to try for the first connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// One try.
    Once,
    /// Try again for this long.
    For(Duration),
    /// Try for ever, saying so in the log.
    Forever,
}

/// Whom to connect as.
#[derive(Clone)]
pub struct Identity {
    /// Decides the prefix of reply subjects.
    pub role: Role,
    /// nkey seed (`SU...`), if the server asks for one.
    pub nkey_seed: Option<String>,
    /// Shown by the server's monitoring.
    pub name: String,
}

impl Identity {
    /// An identity with the key that the environment holds, if any.
    pub fn from_environment(role: Role, name: String) -> Self {
        let nkey_seed = std::env::var(SEED_VARIABLE).ok();
        Self {
            role,
            nkey_seed,
            name,
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("role", &self.role)
            .field("nkey_seed", &self.nkey_seed.as_ref().map(|_| "(hidden)"))
            .field("name", &self.name)
            .finish()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to the NATS server at {url}")]
    Connect {
        url: String,
        #[source]
        source: async_nats::ConnectError,
    },
    #[error("the NATS server at {url} refused these credentials")]
    Refused {
        url: String,
        #[source]
        source: async_nats::ConnectError,
    },
    #[error(
        "the NATS server at {url} is version {found}, but the farm needs {} or newer: upgrade nats-server",
        ServerVersion::MINIMUM
    )]
    TooOld { url: String, found: String },
    #[error("the NATS server at {url} runs without JetStream: start it with `--jetstream`")]
    NoJetStream { url: String },
}

impl ConnectError {
    /// Whether trying again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connect { source, .. } => !matches!(
                source.kind(),
                ConnectErrorKind::ServerParse | ConnectErrorKind::Tls
            ),
            Self::Refused { .. } | Self::TooOld { .. } | Self::NoJetStream { .. } => false,
        }
    }
}

/// A connection that reconnects by itself. Clones share it.
#[derive(Clone, Debug)]
pub struct Connection {
    pub client: Client,
    pub context: jetstream::Context,
    epochs: watch::Receiver<u64>,
    server_errors: watch::Receiver<Option<Arc<str>>>,
}

impl Connection {
    /// Counts connections made; a change means that the link was lost and is back, and that outstanding pull
    /// requests are gone.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.epochs.clone()
    }

    /// The last error that the server reported. A missing permission shows up here (`Permissions Violation
    /// for Publish to "..."`), while the call itself merely times out.
    pub fn server_errors(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.server_errors.clone()
    }

    /// Runs a request; `None` if the connection was re-made meanwhile and no answer came right after it: then
    /// waiting out the request's time limit is in vain. For requests that may be repeated.
    pub async fn unless_reconnected<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        let mut epochs = self.epochs();
        epochs.mark_unchanged();
        tokio::pin!(request);
        tokio::select! {
            biased;
            answer = &mut request => return Some(answer),
            // An error means that the client is gone; the request will say so.
            Ok(()) = epochs.changed() => {}
        }
        // What was sent during the outage is buffered, and answered now.
        tokio::time::timeout(AFTER_RECONNECT, request).await.ok()
    }

    /// Publishes to a stream and waits for the acknowledgement. After an error the message may have been
    /// stored, or be stored later.
    pub async fn publish(
        &self,
        subject: String,
        message: PublishMessage,
    ) -> Result<PublishAck, PublishError> {
        let acknowledged = async { self.context.send_publish(subject, message).await?.await };
        let answer = self.unless_reconnected(acknowledged).await;
        answer.unwrap_or_else(|| Err(PublishError::new(PublishErrorKind::TimedOut)))
    }

    /// Sends what is buffered and closes the subscriptions; bounded by the request timeout.
    pub async fn close(&self) {
        let flushed = tokio::time::timeout(REQUEST_TIMEOUT, self.client.flush()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("closing the NATS connection before everything was sent");
        }
        if let Err(error) = self.client.drain().await {
            tracing::debug!(%error, "cannot drain the NATS connection");
        }
    }
}

/// Connects to `url` (`nats://host:port`, several separated by commas) and checks the server's version.
pub async fn connect(url: &str, identity: &Identity, patience: Patience) -> Result<Connection, ConnectError> {
    let started = Instant::now();
    let mut backoff = FIRST_CONNECT;
    loop {
        let error = match connect_once(url, identity).await {
            Ok(connection) => return Ok(connection),
            Err(error) if error.may_pass() => error,
            Err(error) => return Err(error),
        };
        let delay = backoff.next_delay();
        let go_on = match patience {
            Patience::Once => false,
            Patience::For(limit) => started.elapsed() + delay < limit,
            Patience::Forever => true,
        };
        if !go_on {
            return Err(error);
        }
        let cause = crate::error::one_line(&error);
        tracing::warn!(url, cause, ?delay, "waiting for the NATS server");
        tokio::time::sleep(delay).await;
    }
}

async fn connect_once(url: &str, identity: &Identity) -> Result<Connection, ConnectError> {
    let (epoch_sender, epochs) = watch::channel(0_u64);
    let (error_sender, server_errors) = watch::channel(None);
    let mut options = ConnectOptions::new()
        .name(&identity.name)
        .custom_inbox_prefix(identity.role.inbox_prefix())
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .max_reconnects(None)
        .reconnect_delay_callback(|tries| RECONNECT.delay_for(tries))
        .subscription_capacity(4096)
        .event_callback(move |event| {
            note(&event, &epoch_sender, &error_sender);
            std::future::ready(())
        });
    if let Some(seed) = &identity.nkey_seed {
        options = options.nkey(seed.clone());
    }
    let servers: Vec<&str> = url.split(',').map(str::trim).collect();
    let client = options.connect(servers).await.map_err(|source| {
        let url = url.to_owned();
        match source.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                ConnectError::Refused { url, source }
            }
            _ => ConnectError::Connect { url, source },
        }
    })?;
    check_server(url, &client)?;
    let context = ContextBuilder::new()
        .timeout(REQUEST_TIMEOUT)
        .ack_timeout(REQUEST_TIMEOUT)
        .build(client.clone());
    Ok(Connection {
        client,
        context,
        epochs,
        server_errors,
    })
}

fn note(event: &Event, epochs: &watch::Sender<u64>, server_errors: &watch::Sender<Option<Arc<str>>>) {
    match event {
        Event::Connected => {
            epochs.send_modify(|epoch| *epoch += 1);
            tracing::debug!("connected to NATS");
        }
        Event::Disconnected => tracing::warn!("lost the NATS connection, reconnecting"),
        Event::ServerError(error) => {
            let text = error.to_string();
            tracing::error!(error = text, "the NATS server reported an error");
            server_errors.send_replace(Some(text.into()));
        }
        Event::SlowConsumer(subscription) => {
            tracing::error!(
                subscription,
                "messages were dropped: a subscription is read too slowly"
            );
        }
        Event::LameDuckMode => tracing::warn!("the NATS server is shutting down"),
        Event::ClientError(error) => tracing::warn!(%error, "NATS client error"),
        Event::Draining | Event::Closed => tracing::debug!(%event, "NATS connection ends"),
    }
}

fn check_server(url: &str, client: &Client) -> Result<(), ConnectError> {
    let info = client.server_info();
    let version = info.version.parse::<ServerVersion>().ok();
    if version.is_none_or(|version| version < ServerVersion::MINIMUM) {
        return Err(ConnectError::TooOld {
            url: url.to_owned(),
            found: info.version,
        });
    }
    if !info.jetstream {
        return Err(ConnectError::NoJetStream { url: url.to_owned() });
    }
    Ok(())
}
