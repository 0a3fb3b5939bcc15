//! Keeps a nats-server of our own running for as long as its jobs need it.

use latentfarm_common::error::one_line;
use latentfarm_common::nats::server::EmbeddedServer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::notice::LocalNotice;

/// If the server ends more often than this, another start will not help.
const MAX_RESTARTS: u32 = 5;

/// The server and the task that supervises it. [`SupervisedServer::stop`] shuts the server down in
/// order; if this is dropped instead, the server is killed with the runtime.
#[derive(Debug)]
pub(crate) struct SupervisedServer {
    supervisor: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl SupervisedServer {
    /// Supervises a running server: whenever it ends unexpectedly, it is started again on the same port and
    /// store.
    pub(crate) fn new(server: EmbeddedServer, notices: mpsc::UnboundedSender<LocalNotice>) -> Self {
        let (stop, stopping) = oneshot::channel();
        let supervisor = tokio::spawn(supervise(server, stopping, notices));
        Self { supervisor, stop }
    }

    /// Shuts the server down and waits until its process has ended.
    pub(crate) async fn stop(self) {
        let _already_ended = self.stop.send(());
        let _panicked = self.supervisor.await;
    }
}

async fn supervise(
    mut server: EmbeddedServer,
    mut stopping: oneshot::Receiver<()>,
    notices: mpsc::UnboundedSender<LocalNotice>,
) {
    for restart in 0.. {
        let mut exit = server.exit();
        let ended = async {
            exit.wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|status| *status)
        };
        let status = tokio::select! {
            _ = &mut stopping => return server.stop().await,
            status = ended => status,
        };
        let how = status.map_or_else(|| "for an unknown reason".to_owned(), |status| status.to_string());
        let lost = if restart == MAX_RESTARTS {
            Some(format!("it ended {restart} times, last with {how}"))
        } else {
            server.restart().await.err().map(|error| one_line(&error))
        };
        let is_lost = lost.is_some();
        let _no_receiver = notices.send(lost.map_or(LocalNotice::ServerRestarted { how }, |why| {
            LocalNotice::ServerLost { why }
        }));
        if is_lost {
            break;
        }
    }
    // `server` holds the lock on the store, which must stay until the job folder is closed.
    let _stopped_or_dropped = stopping.await;
}
