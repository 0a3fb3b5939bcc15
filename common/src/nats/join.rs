//! A join file: all that a new machine needs to work for a farm. `latentfarm invite` writes it, and
//! `latentfarm-worker run --join` reads it. It is JSON and holds a secret key.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::rustls::pki_types::CertificateDer;
use async_nats::rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::identity::{Identity, PemFile};
use super::role::Role;
use crate::clock::since_1970;
use crate::error::FileError;
use crate::ids::WorkerId;
use crate::tags::Tags;
use crate::waiting::rough_time;

/// The version of the format.
const FORMAT: u32 = 1;
/// A join file has a key and a certificate, about 1 KiB.
const MAX_BYTES: u64 = 64 << 10;

/// What a machine and the server of its farm recognise each other by, in PEM, if the server has certificates.
#[derive(Default)]
pub(super) struct Certificates {
    /// The authority that has signed both their certificates.
    pub(super) authority: Option<String>,
    /// The certificate of the machine, and its private key.
    pub(super) client: Option<String>,
}

/// What a join file says.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinFile {
    /// The version of the format.
    latentfarm_join: u32,
    /// Name of the machine, and of its worker if it has one device.
    pub name: WorkerId,
    /// Address of the farm's server.
    pub url: String,
    /// Nkey seed with which the workers of the machine sign in.
    nkey_seed: String,
    /// Certificate of the authority by which the server is recognised, in PEM; `None` if it does not encrypt, or is
    /// recognised by the system's authorities.
    authority: Option<String>,
    /// Certificate of the machine and its private key, in PEM, for a server that demands one; `None` if the server has no
    /// certificates.
    #[serde(default)]
    client: Option<String>,
    /// When the key expires, in seconds since the Unix epoch.
    expires_unix: u64,
    /// Tags of the machine's workers, besides those that the machine itself gives them.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

impl fmt::Debug for JoinFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinFile")
            .field("name", &self.name)
            .field("url", &self.url)
            .field("expires_unix", &self.expires_unix)
            .finish_non_exhaustive()
    }
}

/// Why a join file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is something else.
    #[error("`{}` is no join file, which `latentfarm invite` writes", path.display())]
    Other {
        /// Path of the file.
        path: PathBuf,
        /// What the parser found.
        source: serde_json::Error,
    },
    /// The certificate in the file is damaged.
    #[error(
        "`{}` has no certificate that can be read: copy it again, or let whoever runs the farm invite this machine again",
        path.display()
    )]
    Certificate {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file was written by a newer release.
    #[error(
        "`{}` has format {found}, and this release reads {FORMAT}: install the release of the farm's coordinator",
        path.display()
    )]
    Newer {
        /// Path of the file.
        path: PathBuf,
        /// The version of its format.
        found: u32,
    },
    /// The key is not valid any more.
    #[error(
        "the key in `{}` expired {} ago: whoever runs the farm makes another with `latentfarm invite {name}`",
        path.display(),
        rough_time(*since)
    )]
    Expired {
        /// Path of the file.
        path: PathBuf,
        /// Name of the machine.
        name: WorkerId,
        /// The time since then.
        since: Duration,
    },
}

impl JoinFile {
    /// Makes the file of a machine: `nkey_seed` is its key, which expires at `expires_unix`, in seconds since the Unix
    /// epoch, and `certificates` those by which the machine and the server at `url` recognise each other.
    pub(super) fn new(
        name: WorkerId,
        url: String,
        nkey_seed: String,
        certificates: Certificates,
        expires_unix: u64,
    ) -> Self {
        let Certificates { authority, client } = certificates;
        Self {
            latentfarm_join: FORMAT,
            name,
            url,
            nkey_seed,
            authority,
            client,
            expires_unix,
            tags: Tags::NONE,
        }
    }

    /// Returns the same file with these tags of the machine's workers.
    #[must_use]
    pub fn with_tags(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }

    /// Reads a file, and checks that its key has not expired.
    pub fn read(path: &Path) -> Result<Self, JoinError> {
        let mut text = String::new();
        let file = fs::File::open(path).map_err(FileError::at("open", path))?;
        let read = file.take(MAX_BYTES).read_to_string(&mut text);
        read.map_err(FileError::at("read", path))?;
        let other = |source| JoinError::Other {
            path: path.to_owned(),
            source,
        };
        // Of a newer format only the version is known.
        let header: Header = serde_json::from_str(&text).map_err(other)?;
        if header.latentfarm_join != FORMAT {
            return Err(JoinError::Newer {
                path: path.to_owned(),
                found: header.latentfarm_join,
            });
        }
        let join: Self = serde_json::from_str(&text).map_err(other)?;
        let is_damaged = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).is_err();
        if join.authority.iter().chain(&join.client).any(is_damaged) {
            return Err(JoinError::Certificate {
                path: path.to_owned(),
            });
        }
        let since = since_1970().as_secs().checked_sub(join.expires_unix);
        if let Some(since) = since {
            return Err(JoinError::Expired {
                path: path.to_owned(),
                name: join.name,
                since: Duration::from_secs(since),
            });
        }
        Ok(join)
    }

    /// Writes a new file, which its owner alone may read.
    pub fn write(&self, path: &Path) -> Result<(), JoinError> {
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(FileError::at("create", path))?;
        let text = serde_json::to_string_pretty(self).map_err(io::Error::from);
        let written = text.and_then(|text| writeln!(file, "{text}"));
        written.map_err(FileError::at("write", path))?;
        Ok(())
    }

    /// Returns as whom the worker of this name, which is one of the machine's, connects.
    pub fn identity(&self, worker: &WorkerId) -> io::Result<Identity> {
        Ok(Identity {
            role: Role::Worker(worker.clone()),
            nkey_seed: Some(self.nkey_seed.clone()),
            authority: self.authority.as_deref().map(PemFile::from_pem).transpose()?,
            client: self.client.as_deref().map(PemFile::from_pem).transpose()?,
            name: worker.to_string(),
        })
    }

    /// Returns for how long the key is still valid.
    pub fn valid_for(&self) -> Duration {
        Duration::from_secs(self.expires_unix.saturating_sub(since_1970().as_secs()))
    }
}

/// What files of all formats begin with.
#[derive(Deserialize)]
struct Header {
    latentfarm_join: u32,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn join(expires: Duration) -> JoinFile {
        let name = "gpu1".parse().unwrap();
        JoinFile::new(
            name,
            "tls://farm:4222".to_owned(),
            "SUSEED".to_owned(),
            Certificates::default(),
            expires.as_secs(),
        )
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_shows_its_key_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gpu1.join");
        let tags = Tags::new(["eu", "nvenc"].map(|tag| tag.parse().unwrap())).unwrap();
        let written = join(since_1970() + Duration::from_mins(1)).with_tags(tags.clone());
        written.write(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let read = JoinFile::read(&path).unwrap();
        assert_eq!((read.url.as_str(), &read.tags), ("tls://farm:4222", &tags));
        assert!(read.valid_for() > Duration::from_secs(50), "{read:?}");
        let identity = read.identity(&"gpu1-g0".parse().unwrap()).unwrap();
        assert_eq!(identity.nkey_seed.as_deref(), Some("SUSEED"));
        assert!(!format!("{read:?} {identity:?}").contains("SUSEED"));
        // A file that exists is somebody's key.
        join(since_1970()).write(&path).unwrap_err();
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            JoinFile::read(&path).unwrap_err().to_string()
        };
        assert!(refused("a", "{}").contains("no join file"));
        assert!(refused("b", "\u{0}").contains("no join file"));
        let newer = refused("c", r#"{"latentfarm_join": 2, "shape": "another"}"#);
        assert!(newer.contains("format 2"), "{newer}");
        let old =
            serde_json::to_string(&join(since_1970().saturating_sub(Duration::from_hours(50)))).unwrap();
        let expired = refused("d", &old);
        assert!(expired.contains("expired 2 days ago"), "{expired}");
        assert!(expired.contains("latentfarm invite gpu1"), "{expired}");
        let mut damaged = join(since_1970() + Duration::from_mins(1));
        damaged.authority = Some("-----BEGIN CERTIFICATE-----\n".to_owned());
        let damaged = refused("e", &serde_json::to_string(&damaged).unwrap());
        assert!(damaged.contains("certificate"), "{damaged}");
        let tagged = serde_json::to_value(join(since_1970() + Duration::from_mins(1))).unwrap();
        assert!(
            tagged.get("tags").is_none(),
            "a file without tags is one of earlier releases"
        );
        let crowded: Vec<String> = (0..17).map(|number| format!("t{number}")).collect();
        for tags in [serde_json::json!(["e u"]), serde_json::json!(crowded)] {
            let mut tagged = tagged.clone();
            tagged["tags"] = tags;
            let refused = refused("f", &tagged.to_string());
            assert!(refused.contains("no join file"), "{refused}");
        }
        JoinFile::read(&dir.path().join("none")).unwrap_err();
    }
}
