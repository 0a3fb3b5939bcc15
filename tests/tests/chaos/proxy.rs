//! A line to the server that stalls, or loses its connections.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How the line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Line {
    /// Nothing passes, while all connections stay open.
    is_stalled: bool,
    /// Connections of an earlier number end.
    number: u64,
}

/// Passes connections on to the server.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    line: watch::Sender<Line>,
    _runtime: Runtime,
}

impl Proxy {
    /// Listens at a port of this address.
    pub(crate) fn start(host: &str, server: String) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((host, 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (line, seen) = watch::channel(Line::default());
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, line) = (server.clone(), seen.clone());
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(server).await {
                        join(client, server, line).await;
                    }
                });
            }
        });
        Self {
            address,
            line,
            _runtime: runtime,
        }
    }

    pub(crate) fn stall(&self, is_stalled: bool) {
        self.line.send_modify(|line| line.is_stalled = is_stalled);
    }

    /// Ends all connections; new ones are accepted.
    pub(crate) fn break_all(&self) {
        self.line.send_modify(|line| line.number += 1);
    }
}

/// Passes on what both sides say until one ends or the line breaks.
async fn join(client: TcpStream, server: TcpStream, line: watch::Receiver<Line>) {
    let number = line.borrow().number;
    let mut broken = line.clone();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ended = pass(from_client, to_server, line.clone()) => {}
        _ended = pass(from_server, to_client, line) => {}
        _broken = broken.wait_for(|line| line.number != number) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let is_over = line.wait_for(|line| !line.is_stalled).await.is_err();
        if is_over {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
    }
}
