//! Tests of the private server, of what each role may do and of how the server ends.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::keys::{networked, standalone};
use crate::support::{Farm, LIMIT, chunk, eventually, file_in, options, record, worker};
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::server::{
    EmbeddedServer, ServerBinary, ServerError, ServerOptions, StandaloneServer,
};
use latentfarm_common::nats::{ConnectError, Identity, Role, ServerVersion, connect};
use tokio::time::timeout;

/// Environment variable with the directory for the test below that runs itself again.
const DIRECTORY_VARIABLE: &str = "LATENTFARM_TEST_SERVER_DIR";

#[tokio::test]
async fn an_observer_reads_what_is_done() {
    let farm = Farm::start().await;
    DoneLog::new(&farm.coordinator)
        .commit(&record(chunk(0), "w1"))
        .await
        .unwrap();
    let observer = connect(&farm.server.url(), &farm.server.observer(), RetryLimit::Tries(1))
        .await
        .unwrap();
    let log = DoneLog::new(&observer);
    assert_eq!(log.list(chunk(0).job).await.unwrap().len(), 1);
}

#[tokio::test]
async fn no_secret_is_written_to_disk() {
    let farm = Farm::start().await;
    let config = std::fs::read_to_string(farm.dir.path().join("nats/users.conf")).unwrap();
    let workers = ["w1", "w2"].map(|name| farm.server.worker(&worker(name)).unwrap());
    for identity in workers
        .into_iter()
        .chain([farm.server.coordinator(), farm.server.observer()])
    {
        let seed = identity.nkey_seed.unwrap();
        let public_key = nkeys::KeyPair::from_seed(&seed).unwrap().public_key();
        assert!(
            config.contains(&public_key) && !config.contains(&seed),
            "{config}"
        );
    }
    let mode = |name: &str| {
        std::fs::metadata(farm.dir.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("nats"), 0o700);
    assert_eq!(mode("nats/nats.conf"), 0o600);
    assert_eq!(mode("nats/users.conf"), 0o600);
    assert!(farm.server.worker(&worker("w3")).is_none());
}

#[tokio::test]
async fn a_second_server_in_the_same_directory_is_refused() {
    let farm = Farm::start().await;
    let second = EmbeddedServer::start(options(farm.dir.path()).await).await.err();
    assert!(matches!(second, Some(ServerError::Locked { .. })), "{second:?}");
    assert!(second.unwrap().to_string().contains("nats"));
}

#[tokio::test]
async fn a_stopped_server_leaves_its_data_and_frees_its_directory() {
    let farm = Farm::start().await;
    DoneLog::new(&farm.coordinator)
        .commit(&record(chunk(0), "w1"))
        .await
        .unwrap();
    let url = farm.server.url();
    let identity = farm.server.coordinator();
    farm.server.stop().await;
    connect(&url, &identity, RetryLimit::Tries(1))
        .await
        .expect_err("the server is gone");

    let again = EmbeddedServer::start(options(farm.dir.path()).await)
        .await
        .unwrap();
    let connection = connect(&again.url(), &again.coordinator(), RetryLimit::Tries(1))
        .await
        .unwrap();
    let entry = DoneLog::new(&connection)
        .get(chunk(0))
        .await
        .unwrap()
        .expect("the record survived");
    assert_eq!(entry.record.unwrap(), record(chunk(0), "w1"));
}

#[tokio::test]
async fn a_killed_server_comes_back_on_its_port() {
    let mut farm = Farm::start().await;
    let (url, id) = (farm.server.url(), farm.server.id());
    let log = DoneLog::new(&farm.coordinator);
    log.commit(&record(chunk(0), "w1")).await.unwrap();
    let mut exit = farm.server.exit();
    let pid = nix::unistd::Pid::from_raw(id);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    timeout(LIMIT, exit.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap();
    farm.server.restart().await.unwrap();
    assert_eq!(farm.server.url(), url);
    // The old connection reconnects by itself.
    let found = eventually("the record is read", async || log.get(chunk(0)).await.ok()).await;
    assert_eq!(found.unwrap().record.unwrap(), record(chunk(0), "w1"));
}

/// Starts a server in the process that the next test kills. It does nothing if it is run by itself.
#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn holder_of_a_server() {
    let Some(dir) = std::env::var_os(DIRECTORY_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let server = EmbeddedServer::start(options(&dir).await).await.unwrap();
    file_in(&dir, "url.partial", server.url().as_bytes());
    std::fs::rename(dir.join("url.partial"), dir.join("url")).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_server_dies_with_a_parent_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server::holder_of_a_server", "--ignored"])
        .env(DIRECTORY_VARIABLE, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = eventually("the server runs", async || {
        std::fs::read_to_string(dir.path().join("url")).ok()
    })
    .await;
    let address = url.strip_prefix("nats://").unwrap().to_owned();
    tokio::net::TcpStream::connect(&address)
        .await
        .expect("the server listens");
    let locked = EmbeddedServer::start(options(dir.path()).await).await.err();
    assert!(matches!(locked, Some(ServerError::Locked { .. })), "{locked:?}");

    holder.kill().unwrap();
    holder.wait().unwrap();
    // The holder's server dies with it, but not at the same moment.
    let again = EmbeddedServer::start(options(dir.path()).await).await.unwrap();
    assert_ne!(again.url(), url);
    tokio::net::TcpStream::connect(&address)
        .await
        .expect_err("the orphan still listens");
}

fn script(dir: &Path, text: &str) -> ServerBinary {
    let path = file_in(dir, "fake-server", format!("#!/bin/sh\n{text}\n").as_bytes());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let version = ServerVersion::MINIMUM;
    ServerBinary { path, version }
}

#[tokio::test]
async fn a_server_that_ends_at_once_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let binary = script(dir.path(), "echo 'line 3: nonsense' >&2; exit 1");
    let started =
        EmbeddedServer::start(ServerOptions::new(binary, dir.path().join("nats"), Vec::new())).await;
    let error = started.err().expect("it cannot have started");
    assert!(matches!(error, ServerError::Ended { .. }), "{error:?}");
    assert!(error.to_string().contains("line 3: nonsense"), "{error}");
}

#[tokio::test]
async fn an_old_server_is_refused_before_it_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let old = script(dir.path(), "echo 'nats-server: v2.9.10'").path;
    let error = latentfarm_common::nats::server::locate(Some(&old))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("2.9.10"), "{error}");
}

#[test]
fn a_standing_server_keeps_keys_that_exist_and_lets_in_whoever_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:4222".parse().unwrap();
    let configure = |workers: &[&str]| {
        let workers: Vec<_> = workers.iter().map(|name| worker(name)).collect();
        StandaloneServer::configure(dir.path(), &standalone(listen, workers))
    };
    let public_key = |path: &Path| {
        let seed = std::fs::read_to_string(path).unwrap();
        nkeys::KeyPair::from_seed(seed.trim()).unwrap().public_key()
    };
    let first = configure(&["w1", "w1", "observer"]).unwrap();
    let roles: Vec<Role> = first.keys.iter().map(|(role, _)| role.clone()).collect();
    let named = [Role::Worker(worker("w1")), Role::Worker(worker("observer"))];
    assert_eq!(roles[..3], [Role::Coordinator, Role::Operator, Role::Observer]);
    assert_eq!(roles[3..], named);
    let before: Vec<String> = first.keys.iter().map(|(_, path)| public_key(path)).collect();

    let second = configure(&["w2"]).unwrap();
    let users = dir.path().join("users.conf");
    let config = std::fs::read_to_string(&users).unwrap();
    assert_eq!(second.keys.len(), 6);
    for (_, path) in &second.keys {
        assert!(config.contains(&public_key(path)), "{config}");
        let seed = std::fs::read_to_string(path).unwrap();
        assert!(!config.contains(seed.trim()), "{config}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(before.iter().all(|key| config.contains(key)), "{config}");

    std::fs::remove_file(&first.keys[3].1).unwrap();
    let third = configure(&[]).unwrap();
    let config = std::fs::read_to_string(&users).unwrap();
    assert_eq!(third.keys.len(), 5);
    assert!(!config.contains(&before[3]), "{config}");

    std::fs::write(&first.keys[0].1, "nonsense").unwrap();
    let refused = configure(&[]).unwrap_err();
    assert!(matches!(refused, ServerError::BadKey { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_server_on_the_network_keeps_its_keys_and_is_recognised_by_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let once = RetryLimit::Tries(1);
    let server = networked(dir.path(), &[]).await;
    assert!(server.url().starts_with("tls://127.0.0.1:"), "{}", server.url());
    let (coordinator, key) = (
        server.coordinator(),
        server.worker(&worker("w1")).unwrap().nkey_seed,
    );
    connect(&server.url(), &coordinator, once).await.unwrap();
    // Without its certificate the server is not trusted, and nothing is sent to it in the clear.
    let stranger = Identity {
        authority: None,
        ..coordinator.clone()
    };
    for url in [server.url(), server.url().replace("tls://", "nats://")] {
        let refused = connect(&url, &stranger, once).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Tls { .. }), "{refused:?}");
        assert!(refused.to_string().contains("LATENTFARM_CA"), "{refused}");
    }
    server.stop().await;
    // The same keys and the same authority serve after a restart, for other names too.
    let server = networked(dir.path(), &["farm.example"]).await;
    assert_eq!(server.worker(&worker("w1")).unwrap().nkey_seed, key);
    assert_eq!(server.coordinator().nkey_seed, coordinator.nkey_seed);
    connect(&server.url(), &coordinator, once).await.unwrap();
    server.stop().await;
    for secret in [
        "keys/coordinator.nk",
        "keys/worker-w1.nk",
        "tls/ca.key",
        "tls/server.key",
    ] {
        let mode = dir
            .path()
            .join("nats")
            .join(secret)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{secret}");
    }
}
