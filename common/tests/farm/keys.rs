//! Machines that are invited to a server and shut out, in its folder.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::support::{eventually, options, worker};
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::join::JoinFile;
use latentfarm_common::nats::server::{
    EmbeddedServer, Network, ServerError, ServerFolder, ServerOptions, StandaloneOptions, StandaloneServer,
};
use latentfarm_common::nats::{ConnectError, Identity, connect};

const ONCE: RetryLimit = RetryLimit::Tries(1);
const AN_HOUR: Duration = Duration::from_hours(1);

/// Starts a server that other machines reach, with a certificate for these names besides those of this machine.
pub(crate) async fn networked(dir: &Path, hosts: &[&str]) -> EmbeddedServer {
    start(dir, hosts, false).await
}

async fn start(dir: &Path, hosts: &[&str], demands_certificates: bool) -> EmbeddedServer {
    let options = ServerOptions {
        network: Some(Network {
            listen: "127.0.0.1:0".parse().unwrap(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            demands_certificates,
        }),
        ..options(dir).await
    };
    EmbeddedServer::start(options).await.unwrap()
}

/// The configuration of a server alone that does not encrypt.
pub(crate) fn standalone(listen: SocketAddr, workers: Vec<WorkerId>) -> StandaloneOptions {
    StandaloneOptions {
        listen,
        workers,
        encryption: None,
        cluster: None,
    }
}

#[tokio::test]
async fn a_server_that_demands_certificates_admits_those_of_its_farm_alone() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = start(dir.path(), &[], true).await;
    let other = start(other.path(), &[], false).await;
    let coordinator = server.coordinator();
    connect(&server.url(), &coordinator, ONCE).await.unwrap();
    for client in [None, other.coordinator().client] {
        let stranger = Identity {
            client,
            ..coordinator.clone()
        };
        let refused = connect(&server.url(), &stranger, ONCE).await.unwrap_err();
        assert!(
            matches!(refused, ConnectError::CertificateDemanded { .. }),
            "{refused:?}"
        );
        assert!(
            refused.to_string().contains("LATENTFARM_CLIENT_CERT"),
            "{refused}"
        );
    }
    // A certificate without a key of the farm is not enough.
    let unknown = Identity {
        nkey_seed: other.coordinator().nkey_seed,
        ..coordinator
    };
    let refused = connect(&server.url(), &unknown, ONCE).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused:?}");
    // The join file has both.
    let folder = ServerFolder::find(&dir.path().join("nats")).unwrap();
    let join = folder
        .invite(&worker("gpu1"), Some(server.url()), AN_HOUR)
        .unwrap();
    until_admitted(&join, "gpu1", true).await;
    server.stop().await;
    other.stop().await;
}

/// Waits until the server admits the worker of this name with a join file, or refuses it.
async fn until_admitted(join: &JoinFile, name: &str, admitted: bool) {
    eventually("the server has read its keys", async || {
        match connect(&join.url, &join.identity(&worker(name)).unwrap(), ONCE).await {
            Ok(_) => admitted,
            Err(ConnectError::Refused { .. }) => !admitted,
            Err(error) => panic!("{error}"),
        }
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_running_server_admits_a_machine_until_its_key_expires_and_keeps_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = networked(dir.path(), &[]).await;
    let other = server.worker(&worker("w1")).unwrap();
    let other = connect(&server.url(), &other, ONCE).await.unwrap();
    let folder = ServerFolder::find(&dir.path().join("nats")).unwrap();
    let join = folder
        .invite(&worker("gpu1"), Some(server.url()), AN_HOUR)
        .unwrap();
    // The certificate is in the file; the key is for all devices of the machine.
    for name in ["gpu1", "gpu1-g15", "gpu1-cpu"] {
        until_admitted(&join, name, true).await;
    }
    assert!(folder.shut_out_expired().unwrap().is_empty());
    let key = dir.path().join("nats/keys/worker-gpu1.nk");
    let expiry = key.with_extension("expires");
    let seed = std::fs::read_to_string(&key).unwrap();
    let valid = std::fs::read_to_string(&expiry).unwrap();
    // For the server it is the same whether the key's time passes or the clock steps.
    std::fs::write(&expiry, "1700000000\n").unwrap();
    for _ in 0..2 {
        assert_eq!(folder.shut_out_expired().unwrap(), [worker("gpu1")]);
    }
    until_admitted(&join, "gpu1", false).await;
    assert_eq!(std::fs::read_to_string(&key).unwrap(), seed);
    // The clock is right again, so that the machine works with the key that it has.
    std::fs::write(&expiry, valid).unwrap();
    assert!(folder.shut_out_expired().unwrap().is_empty());
    until_admitted(&join, "gpu1", true).await;
    assert_eq!(*other.connects().borrow(), 1, "its connection was not touched");
    server.stop().await;
}

#[tokio::test]
async fn an_expired_key_is_replaced_by_an_invitation_or_removed() {
    let dir = tempfile::tempdir().unwrap();
    let server = networked(dir.path(), &[]).await;
    let folder = ServerFolder::find(&dir.path().join("nats")).unwrap();
    let invite = || folder.invite(&worker("gpu1"), Some(server.url()), AN_HOUR);
    let expire = || {
        std::fs::write(dir.path().join("nats/keys/worker-gpu1.expires"), "1700000000\n").unwrap();
        assert_eq!(folder.shut_out_expired().unwrap(), [worker("gpu1")]);
    };
    let old = invite().unwrap();
    until_admitted(&old, "gpu1", true).await;
    assert!(matches!(invite(), Err(ServerError::HasKey(_))));
    expire();
    let new = invite().unwrap();
    until_admitted(&new, "gpu1", true).await;
    until_admitted(&old, "gpu1", false).await;
    assert!(folder.shut_out_expired().unwrap().is_empty());
    // Nobody else gets a name of its workers, even while it is shut out.
    expire();
    let other = folder.invite(&worker("gpu1-cpu"), Some(server.url()), AN_HOUR);
    assert!(matches!(other, Err(ServerError::NameOfOther { .. })));
    folder.revoke(&worker("gpu1")).unwrap();
    assert!(folder.shut_out_expired().unwrap().is_empty());
    assert!(matches!(
        folder.revoke(&worker("gpu1")),
        Err(ServerError::NoKey { .. })
    ));
    server.stop().await;
}

#[test]
fn a_server_that_does_not_run_admits_at_its_next_start_whoever_has_a_key_that_has_not_expired() {
    let dir = tempfile::tempdir().unwrap();
    let configure = || {
        let options = standalone("127.0.0.1:4222".parse().unwrap(), Vec::new());
        StandaloneServer::configure(dir.path(), &options).unwrap()
    };
    assert!(!configure().was_kept);
    let folder = ServerFolder::find(dir.path()).unwrap();
    let join = folder.invite(&worker("gpu1"), None, AN_HOUR).unwrap();
    assert_eq!(join.url, "nats://127.0.0.1:4222");
    // Another process has the server's old process id: it is not signalled, which would end this test.
    let pid = std::process::id().to_string();
    std::fs::write(dir.path().join("run/nats.pid"), pid).unwrap();
    folder.invite(&worker("gpu2"), None, AN_HOUR).unwrap();

    let users = || std::fs::read_to_string(dir.path().join("users.conf")).unwrap();
    let has = |name: &str| users().contains(&format!("# {name}\n"));
    assert!(has("gpu1") && has("gpu2"));
    // What an operator has changed in the configuration stays.
    let config = dir.path().join("nats.conf");
    let changed = std::fs::read_to_string(&config).unwrap() + "cluster { name: farm }\n";
    std::fs::write(&config, &changed).unwrap();
    std::fs::write(dir.path().join("keys/worker-gpu2.expires"), "0").unwrap();
    assert!(configure().was_kept);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), changed);
    assert!(has("gpu1") && !has("gpu2"));
    // The key that gpu1 gets later does not expire with the one that somebody has deleted.
    std::fs::remove_file(dir.path().join("keys/worker-gpu1.nk")).unwrap();
    assert!(
        !configure()
            .keys
            .iter()
            .any(|(role, _)| role.to_string() == "gpu1")
    );
    assert!(!dir.path().join("keys/worker-gpu1.expires").exists());
}

#[test]
fn a_name_that_cannot_be_used_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = standalone("127.0.0.1:4222".parse().unwrap(), vec![worker("gpu1")]);
    StandaloneServer::configure(dir.path(), &options).unwrap();
    let folder = ServerFolder::find(dir.path()).unwrap();
    let users = std::fs::read_to_string(dir.path().join("users.conf")).unwrap();
    let refused = |name: &str| folder.invite(&worker(name), None, AN_HOUR).unwrap_err();
    assert!(matches!(refused("gpu1"), ServerError::HasKey(_)));
    assert!(matches!(refused("gpu1-cpu"), ServerError::NameOfOther { .. }));
    assert!(matches!(refused(&"x".repeat(37)), ServerError::LongName(_)));
    let unknown = folder.revoke(&worker("gpu2")).unwrap_err();
    assert!(
        unknown.to_string().contains("those that have: `gpu1`"),
        "{unknown}"
    );
    assert_eq!(
        std::fs::read_to_string(dir.path().join("users.conf")).unwrap(),
        users
    );
    let elsewhere = ServerFolder::find(Path::new("/nonexistent")).unwrap_err();
    assert!(matches!(elsewhere, ServerError::NoServer { .. }));
}
