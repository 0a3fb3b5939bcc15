//! The configuration of a standalone server, which an operator runs for a farm of several machines.
//! `latentfarm nats-config` writes it.
//!
//! ```text
//! <dir>/nats.conf            users and what each may do, with public keys only
//! <dir>/keys/coordinator.nk  nkey seed of the coordinator, for `latentfarm serve`
//! <dir>/keys/operator.nk     nkey seed of operators, for `latentfarm submit`, `jobs` and the like
//! <dir>/keys/observer.nk     nkey seed of observers, for `latentfarm top` and `explain`
//! <dir>/keys/worker-NAME.nk  nkey seed of each worker
//! <dir>/js                   the streams, once the server runs; run/nats.pid: its process id
//! ```

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::config::{self, DEFAULT_MAX_FILE_BYTES, ServerConfig};
use super::error::ServerError;
use super::files::{create_file, create_folder};
use super::users::User;
use crate::ids::WorkerId;
use crate::nats::role::Role;

/// The configuration of a standalone server.
#[derive(Clone, Debug)]
pub struct StandaloneServer {
    /// Path of the configuration file.
    pub config: PathBuf,
    /// Each role that may connect, and the path of the file with its key.
    pub keys: Vec<(Role, PathBuf)>,
}

impl StandaloneServer {
    /// Writes the configuration of a server in `dir` that listens at `listen`. The coordinator, an
    /// operator, an observer and each of `workers` get a key, unless they have one; whoever has a key in `dir` may connect.
    pub fn configure(dir: &Path, listen: SocketAddr, workers: &[WorkerId]) -> Result<Self, ServerError> {
        let keys_dir = dir.join("keys");
        for folder in [&keys_dir, &dir.join("run")] {
            create_folder(folder)?;
        }
        let mut roles = vec![Role::Coordinator, Role::Operator, Role::Observer];
        roles.extend(workers.iter().cloned().map(Role::Worker));
        roles.extend(workers_with_keys(&keys_dir)?.into_iter().map(Role::Worker));
        let mut users: Vec<User> = Vec::new();
        let mut keys = Vec::new();
        for role in roles {
            if keys.iter().any(|(known, _)| *known == role) {
                continue;
            }
            let path = keys_dir.join(match &role {
                Role::Coordinator | Role::Operator | Role::Observer => format!("{role}.nk"),
                Role::Worker(worker) => format!("worker-{worker}.nk"),
            });
            users.push(user(role.clone(), &path)?);
            keys.push((role, path));
        }
        let settings = ServerConfig {
            dir,
            host: &listen.ip().to_string(),
            port: i32::from(listen.port()),
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
            is_embedded: false,
        };
        let config = dir.join("nats.conf");
        let text = config::render(&settings, &users.iter().collect::<Vec<_>>());
        let written = create_file(&config)?.write_all(text.as_bytes());
        written.map_err(ServerError::files("write", &config))?;
        Ok(Self { config, keys })
    }
}

/// Lists the workers whose keys are in `dir`.
fn workers_with_keys(dir: &Path) -> Result<Vec<WorkerId>, ServerError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(ServerError::files("read", dir))? {
        let name = entry.map_err(ServerError::files("read", dir))?.file_name();
        let name = name.to_string_lossy();
        let worker = name
            .strip_prefix("worker-")
            .and_then(|name| name.strip_suffix(".nk"));
        found.extend(worker.and_then(|worker| worker.parse().ok()));
    }
    found.sort();
    Ok(found)
}

/// Returns the user whose key is at `path`; makes a key if there is none.
fn user(role: Role, path: &Path) -> Result<User, ServerError> {
    match fs::read_to_string(path) {
        Ok(seed) => User::from_seed(role, seed.trim()).map_err(|source| ServerError::BadKey {
            path: path.to_path_buf(),
            source,
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let user = User::make(role)?;
            let written = writeln!(create_file(path)?, "{}", user.seed);
            written.map_err(ServerError::files("write", path))?;
            Ok(user)
        }
        Err(error) => Err(ServerError::files("read", path)(error)),
    }
}
