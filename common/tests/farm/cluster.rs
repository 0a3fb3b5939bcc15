//! Servers of a cluster, as their configurations are generated.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::identity::PemFile;
use latentfarm_common::nats::server::{Cluster, Encryption, StandaloneOptions, StandaloneServer};
use latentfarm_common::nats::topology::{self, Topology};
use latentfarm_common::nats::{Identity, Role, connect};

use crate::support::{chunk, eventually, record, server_binary};

/// A server that is killed with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Returns addresses that are free now.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

fn configure(dir: &Path, listen: SocketAddr, cluster: Cluster) {
    let options = StandaloneOptions {
        listen,
        workers: Vec::new(),
        encryption: Some(Encryption {
            hosts: Vec::new(),
            demands_certificates: true,
        }),
        cluster: Some(cluster),
    };
    StandaloneServer::configure(dir, &options).unwrap();
}

/// Copies what the servers of a cluster have in common.
fn share(from: &Path, to: &Path) {
    for folder in ["keys", "tls"] {
        fs::create_dir_all(to.join(folder)).unwrap();
    }
    for file in fs::read_dir(from.join("keys")).unwrap() {
        let name = file.unwrap().file_name();
        fs::copy(from.join("keys").join(&name), to.join("keys").join(&name)).unwrap();
    }
    for name in ["ca.pem", "ca.key", "client.pem"] {
        fs::copy(from.join("tls").join(name), to.join("tls").join(name)).unwrap();
    }
}

#[tokio::test]
async fn three_servers_keep_three_copies_and_go_on_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let binary = server_binary().await.path;
    let (clients, routes) = (free_addresses::<3>(), free_addresses::<3>());
    let folders = ["n1", "n2", "n3"].map(|name| dir.path().join(name));
    let mut servers = Vec::new();
    for (number, folder) in folders.iter().enumerate() {
        if number > 0 {
            share(&folders[0], folder);
        }
        let others = routes.iter().filter(|route| **route != routes[number]);
        let cluster = Cluster {
            server_name: format!("n{}", number + 1),
            listen: routes[number],
            routes: others.map(|route| format!("nats://{route}")).collect(),
        };
        configure(folder, clients[number], cluster);
        let server = Command::new(&binary)
            .arg("--config")
            .arg(folder.join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        servers.push(Running(server.unwrap()));
    }
    let identity = Identity {
        role: Role::Coordinator,
        nkey_seed: Some(
            fs::read_to_string(folders[0].join("keys/coordinator.nk"))
                .unwrap()
                .trim()
                .to_owned(),
        ),
        authority: Some(PemFile::File(folders[0].join("tls/ca.pem"))),
        client: Some(PemFile::File(folders[0].join("tls/client.pem"))),
        name: "test".to_owned(),
    };
    let url = clients.map(|client| format!("tls://{client}")).join(",");
    let connection = connect(&url, &identity, RetryLimit::Forever).await.unwrap();
    let topology = Topology {
        replicas: Some(3),
        ..Topology::default()
    };
    // The servers choose a leader first.
    eventually("the streams have three copies", async || {
        topology::ensure(&connection.context, &topology).await.ok()
    })
    .await;
    let log = DoneLog::new(&connection);
    eventually("a record is stored", async || {
        log.commit(&record(chunk(0), "w1")).await.ok()
    })
    .await;
    drop(servers.remove(0));
    let found = eventually("the record is read", async || {
        log.get(chunk(0)).await.ok().flatten()
    })
    .await;
    assert_eq!(found.record.unwrap(), record(chunk(0), "w1"));
    eventually("another record is stored", async || {
        log.commit(&record(chunk(1), "w1")).await.ok()
    })
    .await;
}
