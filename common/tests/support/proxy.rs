//! A network between a client and the server that can be cut.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to the server until it is cut: then it ends them and accepts no others.
pub(crate) struct Proxy {
    pub(crate) url: String,
    is_cut: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn start(server_url: &str) -> Self {
        let server = server_url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let (is_cut, cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut cut, server) = (cut.clone(), server.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = async {
                            let mut server = TcpStream::connect(server).await?;
                            copy_bidirectional(&mut client, &mut server).await
                        } => {}
                        _ = cut.wait_for(|is_cut| *is_cut) => {}
                    }
                });
            }
        });
        Self { url, is_cut }
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}
