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
//! <dir>/js                   the streams, once the server runs; run/nats.pid: its process id
//! ```

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::config::{self, DEFAULT_MAX_FILE_BYTES, ServerConfig, USERS_FILE};
use super::error::ServerError;
use super::files::{create_file, create_folder};
use super::folder::{host_of, write_address, write_users};
use super::users::Users;
use crate::ids::WorkerId;
use crate::nats::role::Role;

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
    /// Writes the configuration of a server in `dir` that listens at `listen`, unless there is one, which an operator may
    /// have changed. The coordinator, an operator, an observer and each of `workers` get a key, unless they have one;
    /// whoever has a key in `dir` that has not expired may connect.
    pub fn configure(dir: &Path, listen: SocketAddr, workers: &[WorkerId]) -> Result<Self, ServerError> {
        create_folder(&dir.join("run"))?;
        let users = Users::kept(&dir.join("keys"), workers)?;
        write_users(dir, &users)?;
        let settings = ServerConfig {
            dir,
            host: &listen.ip().to_string(),
            port: i32::from(listen.port()),
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
            tls: None,
            is_embedded: false,
        };
        let config = dir.join("nats.conf");
        // One of an earlier release has the users in itself.
        let kept = fs::read_to_string(&config).is_ok_and(|text| text.contains(USERS_FILE));
        if !kept {
            let written = create_file(&config)?.write_all(config::render(&settings).as_bytes());
            written.map_err(ServerError::files("write", &config))?;
            write_address(dir, "nats", &host_of(listen.ip()), listen.port())?;
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
