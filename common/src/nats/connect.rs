//! A connection to a NATS server. Its settings notice a dead link within seconds, and it reconnects without
//! end.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Subscriber};
use tokio::sync::watch;
use tokio::time::Instant;

use super::identity::{AUTHORITY_VARIABLE, CLIENT_VARIABLE, Identity};
use super::link::{LinkMonitor, Outage};
use super::signature::{PublicKey, Signer};
use super::version::ServerVersion;
use crate::backoff::{Backoff, Retry, RetryLimit};
use crate::error::one_line;
use crate::waiting::{WaitReport, WaitReporter, rough_time};

/// A link on which two pings are unanswered is dead; this takes 10 to 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Limit of every request and publish acknowledgement.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of the answer to a request that was buffered while the link was down.
const AFTER_RECONNECT: Duration = Duration::from_millis(500);
/// The pauses double, so that a link is back after at most about twice the time that its server was away.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(25), Duration::from_secs(5));
const FIRST_CONNECT: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Limit of the first connection for a user who waits at a terminal: enough for a server that is just
/// starting.
pub const BRIEF: RetryLimit = RetryLimit::For(Duration::from_secs(10));

/// Why there is no connection. Every variant names the server's address.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No server answers, or the link to it cannot be set up.
    #[error("cannot connect to the NATS server at {url}")]
    Connect {
        /// Address of the server, as the caller gave it.
        url: String,
        /// The error that the client library returned.
        source: async_nats::ConnectError,
    },
    /// The server does not accept the nkey, or requires one and got none.
    #[error(
        "the NATS server at {url} refused these credentials: the key is none of this farm, or was revoked, or has expired"
    )]
    Refused {
        /// Address of the server, as the caller gave it.
        url: String,
        /// The refusal that the client library returned.
        source: async_nats::ConnectError,
    },
    /// The connection cannot be encrypted: the server is none that this process trusts.
    #[error(
        "cannot encrypt the connection to the NATS server at {url}: {AUTHORITY_VARIABLE}, or the join file, must have the \
         `ca.pem` of the farm, and the address be one that its certificate is for (`latentfarm serve --host`)"
    )]
    Tls {
        /// Address of the server, as the caller gave it.
        url: String,
        /// The error that the client library returned.
        source: async_nats::ConnectError,
    },
    /// The server demands a certificate of its clients, and got none.
    #[error(
        "the NATS server at {url} demands a certificate of its clients: {CLIENT_VARIABLE}, or the join file, must have one of \
         this farm (`client.pem` beside its `ca.pem`)"
    )]
    CertificateDemanded {
        /// Address of the server, as the caller gave it.
        url: String,
        /// The error that the client library returned.
        source: async_nats::ConnectError,
    },
    /// The server lacks what the farm needs.
    #[error(
        "the NATS server at {url} is version {found}, but the farm needs {} or newer: upgrade nats-server",
        ServerVersion::MINIMUM
    )]
    TooOld {
        /// Address of the server, as the caller gave it.
        url: String,
        /// Version that the server reports.
        found: String,
    },
    /// The server was started without JetStream.
    #[error("the NATS server at {url} runs without JetStream: start it with `--jetstream`")]
    NoJetStream {
        /// Address of the server, as the caller gave it.
        url: String,
    },
}

impl ConnectError {
    /// Whether another try may succeed.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.kind() != ConnectErrorKind::ServerParse,
            Self::Tls { .. }
            | Self::CertificateDemanded { .. }
            | Self::Refused { .. }
            | Self::TooOld { .. }
            | Self::NoJetStream { .. } => false,
        }
    }
}

/// A connection that reconnects by itself. Clones share it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client for plain subjects.
    pub client: Client,
    /// The JetStream context of the same client.
    pub context: jetstream::Context,
    url: Arc<str>,
    connects: watch::Receiver<u64>,
    outage: watch::Receiver<Option<Outage>>,
    signer: Option<Arc<Signer>>,
}

impl Connection {
    /// Returns the address of the server, as it was given to [`connect`], without a password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the public half of the nkey that the process signs in with, if it has one.
    pub fn key(&self) -> Option<&PublicKey> {
        self.signer().map(Signer::key)
    }

    /// Returns the nkey that the process signs in with, if it has one.
    pub(super) fn signer(&self) -> Option<&Signer> {
        self.signer.as_deref()
    }

    /// Returns the outage that goes on; `None` while the link is up.
    pub fn outage(&self) -> Option<Outage> {
        self.outage.borrow().clone()
    }

    /// Whether the link is up.
    pub fn is_up(&self) -> bool {
        self.outage.borrow().is_none()
    }

    /// Waits until the link is up. Safe to drop and call again.
    pub async fn up(&self) {
        let mut outage = self.outage.clone();
        // An error means that the client has ended; then requests fail by themselves.
        let _ended = outage.wait_for(Option::is_none).await;
    }

    /// The number of times that the link was made. A change means that it was lost and is back, and that the
    /// server has dropped outstanding pull requests.
    pub fn connects(&self) -> watch::Receiver<u64> {
        self.connects.clone()
    }

    /// Runs a request that may be repeated. Returns `None` if the link was made again meanwhile and no answer
    /// followed at once: then it is useless to wait for the request's own time limit.
    pub async fn unless_reconnected<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        let mut connects = self.connects();
        connects.mark_unchanged();
        tokio::pin!(request);
        tokio::select! {
            biased;
            answer = &mut request => return Some(answer),
            // An error means that the client has ended; then the request fails by itself.
            Ok(()) = connects.changed() => {}
        }
        // What was sent during the outage is buffered, and answered now.
        tokio::time::timeout(AFTER_RECONNECT, request).await.ok()
    }

    /// Runs an operation that may be repeated, when the link is up, and runs it again whenever it fails and
    /// the link was lost meanwhile: an outage may last as long as it likes. Every other error is returned.
    pub async fn outlast<T, E, F>(&self, mut operation: impl FnMut() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        loop {
            self.up().await;
            let connects = *self.connects.borrow();
            let result = operation().await;
            let was_up = self.is_up() && *self.connects.borrow() == connects;
            // Without its sender the link has ended, and comes back no more.
            if result.is_ok() || was_up || self.outage.has_changed().is_err() {
                return result;
            }
        }
    }

    /// Publishes to a stream and waits for the acknowledgement. After an error the message may have been
    /// stored all the same, or may be stored later.
    pub async fn publish(
        &self,
        subject: String,
        message: PublishMessage,
    ) -> Result<PublishAck, PublishError> {
        let acknowledged = async { self.context.send_publish(subject, message).await?.await };
        let answer = self.unless_reconnected(acknowledged).await;
        answer.unwrap_or_else(|| Err(PublishError::new(PublishErrorKind::TimedOut)))
    }

    /// Sends what is buffered and closes the subscriptions. This takes at most the request timeout.
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

/// Sends a request that may have several answers; they arrive on the returned subscription.
pub(crate) async fn request_many(
    client: &Client,
    subject: String,
    request: String,
) -> Result<Subscriber, async_nats::Error> {
    let inbox = client.new_inbox();
    let answers = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(subject, inbox, request.into()).await?;
    Ok(answers)
}

/// Connects to `url` (`nats://host:port`, several separated by commas) and checks the server's version.
/// `limit` bounds the tries while no server answers; a refusal is final.
pub async fn connect(url: &str, identity: &Identity, limit: RetryLimit) -> Result<Connection, ConnectError> {
    let started = Instant::now();
    let (mut retry, mut reporter) = (Retry::new(FIRST_CONNECT, limit), WaitReporter::default());
    loop {
        let error = match connect_once(url, identity).await {
            Ok(connection) => {
                if !retry.is_first() {
                    let after = rough_time(started.elapsed());
                    let url = connection.url();
                    tracing::warn!("connected to the NATS server at {url} after {after}");
                }
                return Ok(connection);
            }
            Err(error) if error.may_pass() => error,
            Err(error) => return Err(error),
        };
        let report = reporter.observe(Some(()), Instant::now());
        if retry.is_first() {
            tracing::warn!("{}, trying again", one_line(&error));
        } else if let Some(WaitReport::GoesOn(waited)) = report {
            tracing::warn!(
                "waiting for a NATS server for {} ({}): start it, or correct the address",
                rough_time(waited),
                one_line(&error)
            );
        }
        retry.pause(error).await?;
    }
}

/// Whether an error is that a server wanted another certificate of this client: the library has no kind for it.
fn is_refused_client(error: &str) -> bool {
    let alerts = ["CertificateRequired", "BadCertificate", "UnknownCA"];
    alerts
        .iter()
        .any(|alert| error.contains(&format!("received fatal alert: {alert}")))
}

async fn connect_once(url: &str, identity: &Identity) -> Result<Connection, ConnectError> {
    let address = without_credentials(url);
    let monitor = LinkMonitor::start(&address);
    let (connects, outage) = (monitor.connects(), monitor.outage());
    let files = (identity.authority.clone(), identity.client.clone());
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
            // The client reads them each time that it connects.
            let _keeps_open = &files;
            monitor.on_event(&event);
            std::future::ready(())
        });
    if let Some(seed) = &identity.nkey_seed {
        options = options.nkey(seed.clone());
    }
    if let Some(authority) = &identity.authority {
        options = options.add_root_certificates(authority.path());
    }
    if let Some(client) = &identity.client {
        options = options.add_client_certificate(client.path(), client.path());
    }
    let servers: Vec<&str> = url.split(',').map(str::trim).collect();
    let client = options.connect(servers).await.map_err(|source| {
        let url = address.clone();
        match source.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                ConnectError::Refused { url, source }
            }
            _ if is_refused_client(&one_line(&source)) => ConnectError::CertificateDemanded { url, source },
            ConnectErrorKind::Tls => ConnectError::Tls { url, source },
            // The library has no kind for a server whose first message says that it wants to encrypt.
            ConnectErrorKind::Io if one_line(&source).contains("certificate") => {
                ConnectError::Tls { url, source }
            }
            _ => ConnectError::Connect { url, source },
        }
    })?;
    check_server(&address, &client)?;
    let context = ContextBuilder::new()
        .timeout(REQUEST_TIMEOUT)
        .ack_timeout(REQUEST_TIMEOUT)
        .build(client.clone());
    Ok(Connection {
        client,
        context,
        url: address.into(),
        connects,
        outage,
        // A server without accounts accepts any seed, and one that is none signs nothing.
        signer: identity
            .nkey_seed
            .as_ref()
            .and_then(|seed| Signer::from_seed(seed).ok().map(Arc::new)),
    })
}

/// Removes users and passwords from addresses, which are logged.
fn without_credentials(url: &str) -> String {
    let bare = |server: &str| {
        let (scheme, rest) = server.split_once("://").unwrap_or(("nats", server));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{host}")
    };
    let servers: Vec<String> = url.split(',').map(|server| bare(server.trim())).collect();
    servers.join(",")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (url, shown) in [
            ("nats://farm:4222", "nats://farm:4222"),
            ("nats://me:secret@farm:4222", "nats://farm:4222"),
            ("tls://token@a:1, farm:4222", "tls://a:1,nats://farm:4222"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
