//! As whom a process connects to the farm's server, and by which certificates the two recognise each other.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::role::Role;

/// Environment variable with the nkey seed that the process signs in with.
pub const SEED_VARIABLE: &str = "LATENTFARM_NKEY_SEED";

/// Environment variable with the path of the certificate by which the server is recognised.
pub const AUTHORITY_VARIABLE: &str = "LATENTFARM_CA";

/// Environment variable with the path of a file with the certificate of this process and its private key, for a server
/// that demands one (mutual TLS).
pub const CLIENT_VARIABLE: &str = "LATENTFARM_CLIENT_CERT";

/// The user that a process connects as.
#[derive(Clone)]
pub struct Identity {
    /// The role decides the prefix of reply subjects.
    pub role: Role,
    /// The nkey seed (`SU...`), if the server requires one.
    pub nkey_seed: Option<String>,
    /// The authority that has signed the server's certificate, if that is none of the system's.
    pub authority: Option<PemFile>,
    /// The certificate of this process and its private key, for a server that demands one.
    pub client: Option<PemFile>,
    /// The name is shown by the server's monitoring.
    pub name: String,
}

/// A certificate, or one with its private key, in PEM. The client library reads it from a file, for each connection.
#[derive(Clone, Debug)]
pub enum PemFile {
    /// The path of the file.
    File(PathBuf),
    /// A file that exists in memory alone.
    Memory(Arc<File>),
}

impl PemFile {
    /// Keeps a text in memory.
    pub fn from_pem(pem: &str) -> io::Result<Self> {
        let mut file = File::from(memfd_create(c"pem", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(pem.as_bytes())?;
        Ok(Self::Memory(Arc::new(file)))
    }

    /// Returns the path of the file, which is valid while this value exists.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Memory(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        }
    }
}

impl Identity {
    /// Takes the nkey seed from [`SEED_VARIABLE`], the authority from [`AUTHORITY_VARIABLE`] and the certificate of this
    /// process from [`CLIENT_VARIABLE`], if those are set.
    pub fn from_environment(role: Role, name: String) -> Self {
        let nkey_seed = std::env::var(SEED_VARIABLE).ok();
        let file = |variable: &str| {
            let path = std::env::var_os(variable).filter(|path| !path.is_empty());
            path.map(|path| PemFile::File(path.into()))
        };
        Self {
            role,
            nkey_seed,
            authority: file(AUTHORITY_VARIABLE),
            client: file(CLIENT_VARIABLE),
            name,
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("role", &self.role)
            .field("nkey_seed", &self.nkey_seed.as_ref().map(|_| "(hidden)"))
            .field("authority", &self.authority)
            .field("client", &self.client)
            .field("name", &self.name)
            .finish()
    }
}
