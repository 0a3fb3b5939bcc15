//! Keeps the private nats-server running for as long as a job needs it.

use latentfarm_common::error::one_line;
use latentfarm_common::nats::server::EmbeddedServer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::notice::LocalNotice;

/// A server that ends more often than this has a reason that another start does not mend.
const MAX_RESTARTS: u32 = 5;

/// The private server. [`KeptServer::stop`] ends it in order; dropping this kills it with the runtime.
#[derive(Debug)]
pub(super) struct KeptServer {
    keeper: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl KeptServer {
    /// Starts the server again, on its port and its store, whenever it ends without having been asked to.
    pub(super) fn new(server: EmbeddedServer, notices: mpsc::UnboundedSender<LocalNotice>) -> Self {
        let (stop, stopping) = oneshot::channel();
        let keeper = tokio::spawn(keep(server, stopping, notices));
        Self { keeper, stop }
    }

    /// Ends the server and waits until it is gone.
    pub(super) async fn stop(self) {
        let _keeper_gone = self.stop.send(());
        let _broken_off = self.keeper.await;
    }
}

async fn keep(
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
        let _nobody_listens = notices.send(lost.map_or(LocalNotice::ServerRestarted { how }, |why| {
            LocalNotice::ServerLost { why }
        }));
        if is_lost {
            break;
        }
    }
    // The lock on the store stays until the job is put away.
    let _asked_or_dropped = stopping.await;
}
