//! The users of a farm's server and their keys, for the server's configuration and for the clients that sign
//! in.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use nkeys::KeyPair;

use super::error::ServerError;
use super::files::{create_file, create_folder};
use super::tls::TlsFiles;
use crate::clock::since_1970;
use crate::error::ignore_not_found;
use crate::ids::WorkerId;
use crate::nats::identity::{Identity, PemFile};
use crate::nats::role::Role;

/// A user of the server.
pub(super) struct User {
    pub(super) role: Role,
    /// The secret half of the key, with which the user signs.
    pub(super) seed: String,
    /// The public half, with which the server checks the signature.
    pub(super) public_key: String,
}

impl User {
    /// Makes a user with a new key.
    pub(super) fn make(role: Role) -> Result<Self, ServerError> {
        Self::new(role, &KeyPair::new_user()).map_err(ServerError::Key)
    }

    /// Makes a user with the key of this seed.
    pub(super) fn from_seed(role: Role, seed: &str) -> Result<Self, nkeys::error::Error> {
        Self::new(role, &KeyPair::from_seed(seed)?)
    }

    fn new(role: Role, pair: &KeyPair) -> Result<Self, nkeys::error::Error> {
        Ok(Self {
            role,
            seed: pair.seed()?,
            public_key: pair.public_key(),
        })
    }

    /// Returns as whom the user connects to a server that has these certificates.
    pub(super) fn identity(&self, tls: Option<&TlsFiles>) -> Identity {
        Identity {
            role: self.role.clone(),
            nkey_seed: Some(self.seed.clone()),
            authority: tls.map(|tls| PemFile::File(tls.authority.clone())),
            client: tls.map(|tls| PemFile::File(tls.client.clone())),
            name: self.role.to_string(),
        }
    }

    /// Returns the path of the user's key in a folder of keys.
    pub(super) fn file_in(&self, dir: &Path) -> PathBuf {
        dir.join(file_name(&self.role))
    }

    /// Returns the user whose key is in `dir`; makes a key if there is none.
    fn kept(role: Role, dir: &Path) -> Result<Self, ServerError> {
        let path = dir.join(file_name(&role));
        if let Some(seed) = seed_in(&path)? {
            return Self::from_seed(role, &seed).map_err(|source| ServerError::BadKey { path, source });
        }
        let user = Self::make(role)?;
        let written = writeln!(create_file(&path)?, "{}", user.seed);
        written.map_err(ServerError::files("write", &path))?;
        Ok(user)
    }
}

fn file_name(role: &Role) -> String {
    match role {
        Role::Coordinator | Role::Operator | Role::Observer => format!("{role}.nk"),
        Role::Worker(worker) => format!("worker-{worker}.nk"),
    }
}

/// Makes a key for a worker that has none, which expires at `expires_unix`, in seconds since the Unix epoch, and returns its
/// seed.
pub(super) fn make_key(worker: &WorkerId, expires_unix: u64, dir: &Path) -> Result<String, ServerError> {
    let user = User::kept(Role::Worker(worker.clone()), dir)?;
    let path = expiry_file(worker, dir);
    let written = writeln!(create_file(&path)?, "{expires_unix}");
    written.map_err(ServerError::files("write", &path))?;
    Ok(user.seed)
}

/// Returns the seed of a worker's key in `dir`, if it has one.
pub(super) fn seed_of(worker: &WorkerId, dir: &Path) -> Result<Option<String>, ServerError> {
    seed_in(&key_file(worker, dir))
}

/// Reads the seed in the file of a key, if there is one.
fn seed_in(path: &Path) -> Result<Option<String>, ServerError> {
    match fs::read_to_string(path) {
        Ok(seed) => Ok(Some(seed.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ServerError::files("read", path)(error)),
    }
}

/// Removes the key of a worker from `dir`, and its expiry, as far as they are there.
pub(super) fn remove_key(worker: &WorkerId, dir: &Path) -> Result<(), ServerError> {
    // The key goes first: without its expiry it would be valid for ever.
    for path in [key_file(worker, dir), expiry_file(worker, dir)] {
        ignore_not_found(fs::remove_file(&path)).map_err(ServerError::files("remove", &path))?;
    }
    Ok(())
}

/// Lists the workers whose keys in `dir` have expired, sorted. Their files stay: the clock of this machine may be wrong, and a key
/// that was removed would not come back with the right time.
pub(super) fn expired_in(dir: &Path) -> Result<Vec<WorkerId>, ServerError> {
    let now = since_1970().as_secs();
    let mut expired = Vec::new();
    for worker in named_in(dir, ".expires")? {
        if key_file(&worker, dir).exists() && expiry_of(&worker, dir)? <= now {
            expired.push(worker);
        }
    }
    Ok(expired)
}

/// Removes the expiries in `dir` whose keys somebody has deleted: they are not those of the next keys.
fn remove_stray_expiries(dir: &Path) -> Result<(), ServerError> {
    for worker in named_in(dir, ".expires")? {
        if !key_file(&worker, dir).exists() {
            remove_key(&worker, dir)?;
        }
    }
    Ok(())
}

fn key_file(worker: &WorkerId, dir: &Path) -> PathBuf {
    dir.join(file_name(&Role::Worker(worker.clone())))
}

/// Reads when the key of a worker expires, in seconds since the Unix epoch.
fn expiry_of(worker: &WorkerId, dir: &Path) -> Result<u64, ServerError> {
    let path = expiry_file(worker, dir);
    let text = fs::read_to_string(&path).map_err(ServerError::files("read", &path))?;
    text.trim().parse().map_err(|_| ServerError::BadExpiry { path })
}

fn expiry_file(worker: &WorkerId, dir: &Path) -> PathBuf {
    dir.join(format!("worker-{worker}.expires"))
}

/// Lists the workers whose keys are in `dir`.
pub(super) fn workers_with_keys(dir: &Path) -> Result<Vec<WorkerId>, ServerError> {
    named_in(dir, ".nk")
}

/// Lists the workers that have a file with this extension in `dir`, sorted.
fn named_in(dir: &Path, extension: &str) -> Result<Vec<WorkerId>, ServerError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(ServerError::files("read", dir))? {
        let name = entry.map_err(ServerError::files("read", dir))?.file_name();
        let name = name.to_string_lossy();
        let worker = name
            .strip_prefix("worker-")
            .and_then(|name| name.strip_suffix(extension));
        found.extend(worker.and_then(|worker| worker.parse().ok()));
    }
    found.sort();
    Ok(found)
}

/// The users of a server.
pub(super) struct Users {
    pub(super) coordinator: User,
    pub(super) operator: User,
    pub(super) observer: User,
    workers: Vec<User>,
}

impl Users {
    /// Makes users with keys that exist only in memory.
    pub(super) fn make(workers: &[WorkerId]) -> Result<Self, ServerError> {
        Self::each(workers, User::make)
    }

    /// Returns users with keys in the folder `dir`, which get one if they have none. Workers that have a key there
    /// are users too. Those whose key has expired are left out.
    pub(super) fn kept(dir: &Path, workers: &[WorkerId]) -> Result<Self, ServerError> {
        create_folder(dir)?;
        remove_stray_expiries(dir)?;
        let mut all = workers.to_vec();
        all.extend(workers_with_keys(dir)?);
        let expired = expired_in(dir)?;
        let mut seen = BTreeSet::new();
        all.retain(|worker| !expired.contains(worker) && seen.insert(worker.clone()));
        Self::each(&all, |role| User::kept(role, dir))
    }

    fn each<'a>(
        workers: impl IntoIterator<Item = &'a WorkerId>,
        user: impl Fn(Role) -> Result<User, ServerError>,
    ) -> Result<Self, ServerError> {
        let workers = workers.into_iter().map(|id| user(Role::Worker(id.clone())));
        Ok(Self {
            coordinator: user(Role::Coordinator)?,
            operator: user(Role::Operator)?,
            observer: user(Role::Observer)?,
            workers: workers.collect::<Result<_, ServerError>>()?,
        })
    }

    pub(super) fn worker(&self, worker: &WorkerId) -> Option<&User> {
        let role = Role::Worker(worker.clone());
        self.workers.iter().find(|user| user.role == role)
    }

    pub(super) fn all(&self) -> Vec<&User> {
        [&self.coordinator, &self.operator, &self.observer]
            .into_iter()
            .chain(&self.workers)
            .collect()
    }
}
