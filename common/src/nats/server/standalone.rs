//! The configuration of a standalone server, which an operator runs for a farm of several machines.
//! `latentfarm nats-config` writes it.
//!
//! ```text
//! <dir>/nats.conf            configuration; users.conf beside it: users and what each may do, with public keys only
//! <dir>/address              where other machines reach the server
//! <dir>/keys/coordinator.nk  nkey seed of the coordinator, for `latentfarm serve`
//! <dir>/keys/operator.nk     nkey seed of operators, for `latentfarm submit`, `jobs` and the like
//! <dir>/keys/observer.nk     nkey seed of observers, for `latentfarm top` and `explain`
//! <dir>/keys/worker-NAME.nk  nkey seed of each worker
//! <dir>/tls                  certificates, if the server encrypts: see `tls`
//! <dir>/js                   the streams, once the server runs; run/nats.pid: its process id
//! ```

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::config::{self, Cluster, DEFAULT_MAX_FILE_BYTES, ServerConfig, USERS_FILE};
use super::error::ServerError;
use super::files::{create_file, create_folder};
use super::folder::{host_of, write_address, write_users};
use super::tls::TlsFiles;
use super::users::Users;
use crate::ids::WorkerId;
use crate::nats::role::Role;

/// How a standalone server is to be configured.
#[derive(Clone, Debug)]
pub struct StandaloneOptions {
    /// The address and the port at which the server listens.
    pub listen: SocketAddr,
    /// The workers that get a key.
    pub workers: Vec<WorkerId>,
    /// How connections are encrypted; `None` if they are not.
    pub encryption: Option<Encryption>,
    /// The cluster that the server is one of, if it is.
    pub cluster: Option<Cluster>,
}

/// How the connections to a standalone server are encrypted.
#[derive(Clone, Debug)]
pub struct Encryption {
    /// The names and addresses that the server's certificate is for, besides those of its machine for itself.
    pub hosts: Vec<String>,
    /// Whether the server demands a certificate of each client too (mutual TLS).
    pub demands_certificates: bool,
}

/// The configuration of a standalone server.
#[derive(Clone, Debug)]
pub struct StandaloneServer {
    /// Path of the configuration file.
    pub config: PathBuf,
    /// Whether that file was there, and was left as it is.
    pub was_kept: bool,
    /// Each role that may connect, and the path of the file with its key.
    pub keys: Vec<(Role, PathBuf)>,
}

impl StandaloneServer {
    /// Writes the configuration of a server in `dir`, unless there is one, which an operator may have changed. The
    /// coordinator, an operator, an observer and each of the workers get a key, unless they have one; whoever has a key in
    /// `dir` that has not expired may connect.
    pub fn configure(dir: &Path, options: &StandaloneOptions) -> Result<Self, ServerError> {
        create_folder(&dir.join("run"))?;
        let users = Users::kept(&dir.join("keys"), &options.workers)?;
        write_users(dir, &users)?;
        let (listen, encryption) = (options.listen, options.encryption.as_ref());
        let tls = encryption.map(|encryption| TlsFiles::make(&dir.join("tls"), &encryption.hosts));
        let tls = tls.transpose()?;
        let settings = ServerConfig {
            dir,
            host: &listen.ip().to_string(),
            port: i32::from(listen.port()),
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
            tls: tls.as_ref(),
            demands_certificates: encryption.is_some_and(|encryption| encryption.demands_certificates),
            cluster: options.cluster.as_ref(),
            is_embedded: false,
        };
        let config = dir.join("nats.conf");
        // One of an earlier release has the users in itself.
        let kept = fs::read_to_string(&config).is_ok_and(|text| text.contains(USERS_FILE));
        if !kept {
            let written = create_file(&config)?.write_all(config::render(&settings).as_bytes());
            written.map_err(ServerError::files("write", &config))?;
            let named = encryption.and_then(|encryption| encryption.hosts.first().cloned());
            let host = named.unwrap_or_else(|| host_of(listen.ip()));
            let scheme = if tls.is_some() { "tls" } else { "nats" };
            write_address(dir, scheme, &host, listen.port())?;
        }
        let keys_dir = dir.join("keys");
        let keys = users
            .all()
            .into_iter()
            .map(|user| (user.role.clone(), user.file_in(&keys_dir)));
        Ok(Self {
            config,
            was_kept: kept,
            keys: keys.collect(),
        })
    }
}
