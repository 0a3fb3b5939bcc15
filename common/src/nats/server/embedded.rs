//! A nats-server that the coordinator starts before anything else and stops at its end. That of a render on one
//! machine is private: it listens on loopback at a free port, and its keys exist only in memory. That of a farm is
//! reached over the network: it encrypts all connections, and its keys and certificates are in files.
//!
//! ```text
//! <dir>/lock       locked while the server runs: nats-server itself takes no lock
//! <dir>/nats.conf  configuration; users.conf beside it: who may do what, with public keys only
//! <dir>/nats.log   the server's log; nats.err has what it printed
//! <dir>/js         streams
//! <dir>/run        files with the port and the process id
//! <dir>/keys       keys, and <dir>/tls certificates, of a server that is reached over the network
//! ```

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::config::{self, DEFAULT_MAX_FILE_BYTES, ServerConfig};
use super::error::ServerError;
use super::files::{create_file, create_folder, lock_file};
use super::folder::{host_of, write_address, write_users};
use super::locate::ServerBinary;
use super::process::ServerProcess;
use super::tls::TlsFiles;
use super::users::Users;
use crate::ids::WorkerId;
use crate::nats::identity::Identity;

const READY_LIMIT: Duration = Duration::from_secs(15);
const READY_LOOK: Duration = Duration::from_millis(5);
/// How long a start waits for the folder's lock, and how often it tries.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
const LOCK_LOOK: Duration = Duration::from_millis(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The settings of an embedded server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The nats-server executable to start.
    pub binary: ServerBinary,
    /// The folder of the server's files. It is created if it does not exist; only one server at a time may
    /// use it.
    pub dir: PathBuf,
    /// The workers that may connect, each with a key of its own.
    pub workers: Vec<WorkerId>,
    /// Limit of all stored data in bytes.
    pub max_file_bytes: u64,
    /// How other machines reach the server; `None` for a private one.
    pub network: Option<Network>,
}

/// How other machines reach a server.
#[derive(Clone, Debug)]
pub struct Network {
    /// The address and the port at which the server listens; port 0 stands for a free one.
    pub listen: SocketAddr,
    /// The names and addresses that the server's certificate is for, besides those of this machine for itself.
    pub hosts: Vec<String>,
    /// Whether the server demands a certificate of each client too (mutual TLS).
    pub demands_certificates: bool,
}

impl ServerOptions {
    /// Takes the default limit of stored data.
    pub fn new(binary: ServerBinary, dir: PathBuf, workers: Vec<WorkerId>) -> Self {
        Self {
            binary,
            dir,
            workers,
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
            network: None,
        }
    }
}

/// A server that was started. Dropping this kills the server; [`EmbeddedServer::stop`] ends it in order.
pub struct EmbeddedServer {
    options: ServerOptions,
    users: Users,
    tls: Option<TlsFiles>,
    port: u16,
    process: ServerProcess,
    /// The lock is held here too, so that the folder stays locked across a restart.
    lock: Flock<File>,
}

impl EmbeddedServer {
    /// Starts the server and waits until it listens.
    pub async fn start(options: ServerOptions) -> Result<Self, ServerError> {
        for name in ["", "js", "run"] {
            create_folder(&options.dir.join(name))?;
        }
        let lock = lock(&options.dir).await?;
        let (users, tls) = match &options.network {
            None => (Users::make(&options.workers)?, None),
            Some(network) => (
                Users::kept(&options.dir.join("keys"), &options.workers)?,
                Some(TlsFiles::make(&options.dir.join("tls"), &network.hosts)?),
            ),
        };
        let port = options.network.as_ref().map(|network| network.listen.port());
        let port = port.filter(|port| *port != 0);
        let (process, port) = launch(&options, (&users, tls.as_ref()), port, &lock).await?;
        let trial = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        trial.map_err(ServerError::NoLoopback)?;
        if let Some(Network { listen, hosts, .. }) = &options.network {
            let host = hosts.first().cloned().unwrap_or_else(|| host_of(listen.ip()));
            write_address(&options.dir, "tls", &host, port)?;
        }
        tracing::debug!(port, version = %options.binary.version, "nats-server is ready");
        Ok(Self {
            options,
            users,
            tls,
            port,
            process,
            lock,
        })
    }

    /// Returns the address for this machine, `nats://127.0.0.1:<port>`, or `tls://` for a server that encrypts.
    pub fn url(&self) -> String {
        format!(
            "{}://127.0.0.1:{}",
            if self.tls.is_some() { "tls" } else { "nats" },
            self.port
        )
    }

    /// Returns the path of the certificate with which clients recognise the server, if it encrypts.
    pub fn authority(&self) -> Option<&Path> {
        self.tls.as_ref().map(|tls| tls.authority.as_path())
    }

    /// Returns the process id of the server.
    pub fn id(&self) -> i32 {
        self.process.id()
    }

    /// Returns the user that the coordinator connects as.
    pub fn coordinator(&self) -> Identity {
        self.users.coordinator.identity(self.tls.as_ref())
    }

    /// Returns the user that operators connect as.
    pub fn operator(&self) -> Identity {
        self.users.operator.identity(self.tls.as_ref())
    }

    /// Returns the user that observers connect as.
    pub fn observer(&self) -> Identity {
        self.users.observer.identity(self.tls.as_ref())
    }

    /// Returns the user that a worker connects as, or `None` if the server was started without this worker.
    pub fn worker(&self, worker: &WorkerId) -> Option<Identity> {
        self.users
            .worker(worker)
            .map(|user| user.identity(self.tls.as_ref()))
    }

    /// The exit status of the process, once it has ended for whatever reason.
    pub fn exit(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.process.exit()
    }

    /// Starts the server again after it ended, on the same port and with the same keys, so that clients
    /// reconnect by themselves. A server that still runs is killed first.
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        self.process.signal(Signal::SIGKILL);
        self.ended(KILL_LIMIT).await;
        if self.options.network.is_some() {
            // Others may have been invited or shut out since the start.
            self.users = Users::kept(&self.options.dir.join("keys"), &[])?;
        }
        let (process, _) = launch(
            &self.options,
            (&self.users, self.tls.as_ref()),
            Some(self.port),
            &self.lock,
        )
        .await?;
        self.process = process;
        Ok(())
    }

    /// Ends the server with SIGTERM, and after ten seconds with SIGKILL. Returns when the process has ended.
    pub async fn stop(self) {
        self.process.signal(Signal::SIGTERM);
        if !self.ended(STOP_LIMIT).await {
            tracing::warn!("nats-server did not end in time and is killed");
            self.process.signal(Signal::SIGKILL);
            self.ended(KILL_LIMIT).await;
        }
    }

    async fn ended(&self, limit: Duration) -> bool {
        let mut exit = self.process.exit();
        let gone = matches!(timeout(limit, exit.wait_for(Option::is_some)).await, Ok(Ok(_)));
        gone
    }
}

/// Locks the folder. It waits for a server that is about to end: one whose coordinator was killed dies with it, and
/// holds the lock until the kernel has cleared it away, while the coordinator may be started again at once.
async fn lock(dir: &Path) -> Result<Flock<File>, ServerError> {
    let path = dir.join("lock");
    let mut file = lock_file(&path)?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < deadline => file,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(ServerError::Locked {
                    dir: dir.to_path_buf(),
                });
            }
            Err((_, errno)) => return Err(ServerError::files("lock", &path)(errno.into())),
        };
        sleep(LOCK_LOOK).await;
    }
}

async fn launch(
    options: &ServerOptions,
    (users, tls): (&Users, Option<&TlsFiles>),
    port: Option<u16>,
    lock: &Flock<File>,
) -> Result<(ServerProcess, u16), ServerError> {
    let dir = &options.dir;
    let run = dir.join("run");
    remove_ports_files(&run).map_err(ServerError::files("clear", &run))?;
    let host = options
        .network
        .as_ref()
        .map_or(Ipv4Addr::LOCALHOST.into(), |network| network.listen.ip());
    let settings = ServerConfig {
        dir,
        host: &host.to_string(),
        port: port.map_or(-1, i32::from),
        max_file_bytes: options.max_file_bytes,
        tls,
        demands_certificates: options
            .network
            .as_ref()
            .is_some_and(|network| network.demands_certificates),
        cluster: None,
        is_embedded: true,
    };
    let config = dir.join("nats.conf");
    let mut file = create_file(&config)?;
    let text = config::render(&settings);
    io::Write::write_all(&mut file, text.as_bytes()).map_err(ServerError::files("write", &config))?;
    write_users(dir, users)?;
    let stderr_path = dir.join("nats.err");
    let stderr = create_file(&stderr_path)?;
    let binary = &options.binary.path;
    let process = ServerProcess::spawn(binary, &config, stderr, lock).await;
    let process = process.map_err(|source| ServerError::Spawn {
        path: binary.clone(),
        source,
    })?;
    let deadline = Instant::now() + READY_LIMIT;
    let mut exit = process.exit();
    loop {
        if let Some(port) = read_port(&run, process.id()) {
            return Ok((process, port));
        }
        if Instant::now() >= deadline {
            let output = output_of(dir);
            let limit = READY_LIMIT;
            return Err(ServerError::NotReady { limit, output });
        }
        if let Ok(Ok(ended)) = timeout(READY_LOOK, exit.wait_for(Option::is_some)).await
            && let Some(status) = *ended
        {
            let output = output_of(dir);
            return Err(ServerError::Ended { status, output });
        }
    }
}

fn remove_ports_files(run: &Path) -> io::Result<()> {
    for entry in fs::read_dir(run)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ports") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Reads the port from `<program>_<pid>.ports`: `{"nats":["nats://127.0.0.1:35409"], ...}`. Returns `None` if
/// the file does not exist or is not complete yet.
fn read_port(run: &Path, id: i32) -> Option<u16> {
    #[derive(serde::Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let suffix = format!("_{id}.ports");
    let entries = fs::read_dir(run).ok()?;
    let ours = entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().ends_with(&suffix))?;
    let ports: Ports = serde_json::from_slice(&fs::read(ours.path()).ok()?).ok()?;
    ports.nats.first()?.rsplit_once(':')?.1.parse().ok()
}

/// Returns the last lines of the server's stderr, which has errors of the configuration, and of its log,
/// which has later ones.
fn output_of(dir: &Path) -> String {
    let tail = |name: &str| {
        let text = fs::read(dir.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    };
    match (tail("nats.err"), tail("nats.log")) {
        (errors, log) if errors.is_empty() => log,
        (errors, log) if log.is_empty() => errors,
        (errors, log) => format!("{errors} | {log}"),
    }
}
