//! One file from the Hugging Face hub, or from a mirror of it, into a folder.
//!
//! `hf-hub` talks to the hub, keeps what it has fetched in `CACHE/models--…/blobs/ETAG.part`, and goes on there.
//! It does not compare digests, does not notice a server that ignores the range it was asked for, and waits for
//! ever on a silent connection: that is done here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{BinaryBytes, ProgressBar};
use latentfarm_common::backoff::Backoff;
use latentfarm_common::digest::Digest;
use latentfarm_common::error::{FileError, one_line, unless_absent};

use super::bar::bar;
use super::watch::{Pulse, Silent, watched};

pub(super) const PUBLIC_ENDPOINT: &str = "https://huggingface.co";

/// A connection that brings nothing for so long is given up.
const PATIENCE: Duration = Duration::from_mins(1);

/// Connections in a row that may break without having brought anything.
const ATTEMPTS: u32 = 4;
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));

#[derive(Debug, thiserror::Error)]
pub(super) enum HubError {
    #[error("cannot reach {endpoint}")]
    Unreachable {
        endpoint: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{url} answers with status {code}: {hint}")]
    Refused {
        url: String,
        code: u16,
        hint: &'static str,
    },
    #[error("{url} does not answer as a hub does: is HF_ENDPOINT a mirror of the Hugging Face hub?")]
    Strange {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{url} sent {found} with the SHA-256 {digest}, not {expected}: nothing of it was kept")]
    WrongDigest {
        url: String,
        found: BinaryBytes,
        digest: Digest,
        expected: Digest,
    },
    #[error("{url} sent more than the {expected} bytes it named: nothing of it was kept")]
    TooLong { url: String, expected: u64 },
    #[error(transparent)]
    Write(#[from] FileError),
}

/// What the hub says about a file.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) url: String,
    repo: String,
    name: String,
    etag: String,
    /// The repository's state, a Git commit.
    pub(super) commit: String,
    pub(super) bytes: u64,
    /// Of its content; the hub names none for small text files.
    pub(super) sha256: Option<Digest>,
}

/// A connection to the hub and a folder for what is not whole yet.
pub(super) struct Hub {
    api: Api,
    cache_dir: PathBuf,
    pub(super) endpoint: String,
}

impl Hub {
    pub(super) fn new(endpoint: &str, token: Option<String>, cache_dir: &Path) -> Result<Self, HubError> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let api = ApiBuilder::from_cache(Cache::new(cache_dir.to_owned()))
            .with_endpoint(endpoint.clone())
            .with_token(token)
            .with_progress(false)
            // Its own would append to a file that it did not read the length of.
            .with_retries(0)
            .with_user_agent("latentfarm", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|source| classified(&endpoint, &endpoint, source))?;
        Ok(Self {
            api,
            cache_dir: cache_dir.to_owned(),
            endpoint,
        })
    }

    /// Asks about a file.
    pub(super) fn look_up(&self, repo: &str, name: &str) -> Result<Remote, HubError> {
        let url = self.api.model(repo.to_owned()).url(name);
        let (api, asked) = (self.api.clone(), url.clone());
        let answer = watched(PATIENCE, &Arc::default(), move || api.metadata(&asked));
        let metadata = self.settle(&url, answer)?;
        let etag = metadata.etag().to_owned();
        // Both become names of files in the cache.
        let is_name = |text: &str| {
            !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        if !is_name(&etag) || !is_name(metadata.commit_hash()) {
            return Err(HubError::Strange {
                url,
                source: format!("its ETag is `{etag}` and its commit `{}`", metadata.commit_hash()).into(),
            });
        }
        Ok(Remote {
            url,
            repo: repo.to_owned(),
            name: name.to_owned(),
            commit: metadata.commit_hash().to_owned(),
            bytes: metadata.size() as u64,
            sha256: etag.parse().ok(),
            etag,
        })
    }

    /// Fetches a file under the name `to`, in the folder of the cache's file system, going on where an earlier
    /// call was cut off. What has another digest than the hub names is deleted.
    pub(super) fn fetch(&self, remote: &Remote, to: &Path) -> Result<Digest, HubError> {
        let blob = self.blob(remote);
        let part = blob.with_extension("part");
        let mut failures = 0;
        let mut backoff = RETRY;
        let mut restarted = false;
        loop {
            let had = length(&part);
            if had > remote.bytes || length(&blob) > remote.bytes {
                // The server ignored the range, and its whole answer was appended.
                remove(&part)?;
                remove(&blob)?;
                if std::mem::replace(&mut restarted, true) {
                    return Err(HubError::TooLong {
                        url: remote.url.clone(),
                        expected: remote.bytes,
                    });
                }
                eprintln!(
                    "{}: the server cannot go on in the middle, from the start again",
                    remote.name
                );
                continue;
            }
            if had == remote.bytes && had > 0 {
                rename(&part, &blob)?;
            }
            if blob.exists() {
                if length(&blob) == remote.bytes {
                    break;
                }
                // A connection that ended early without an error.
                rename(&blob, &part)?;
            }
            let had = length(&part);
            if had > 0 {
                eprintln!("{}: going on at {}", remote.name, BinaryBytes(had));
            }
            let Err(error) = self.download(remote, had) else {
                continue;
            };
            if length(&part) > had {
                failures = 0;
                backoff.reset();
            }
            failures += 1;
            if failures >= ATTEMPTS || !error.may_pass() {
                return Err(error);
            }
            eprintln!("{}: {}; trying again", remote.name, one_line(&error));
            std::thread::park_timeout(backoff.next_delay());
        }
        accept(remote, &blob, to)
    }

    /// One connection's worth.
    fn download(&self, remote: &Remote, had: u64) -> Result<(), HubError> {
        // Links to blobs of earlier calls stand in the library's way.
        let repo_dir = self.repo_dir(remote);
        for links in ["snapshots", "refs"] {
            unless_absent(fs::remove_dir_all(repo_dir.join(links)))
                .map_err(FileError::at("write to", &repo_dir))?;
        }
        let bar = bar(&remote.name, remote.bytes);
        bar.set_position(had);
        let pulse = Pulse::default();
        let (repo, name) = (self.api.model(remote.repo.clone()), remote.name.clone());
        let meter = Meter {
            bar: bar.clone(),
            pulse: Arc::clone(&pulse),
            to_skip: had,
        };
        let answer = watched(PATIENCE, &pulse, move || {
            repo.download_with_progress(&name, meter)
        });
        // A silent connection keeps its thread, and that a clone of the bar.
        bar.finish_and_clear();
        self.settle(&remote.url, answer).map(drop)
    }

    fn settle<T>(&self, url: &str, answer: Result<Result<T, ApiError>, Silent>) -> Result<T, HubError> {
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(classified(&self.endpoint, url, error)),
            Err(silent) => Err(HubError::Unreachable {
                endpoint: self.endpoint.clone(),
                source: silent.into(),
            }),
        }
    }

    fn repo_dir(&self, remote: &Remote) -> PathBuf {
        let repo = Repo::new(remote.repo.clone(), RepoType::Model);
        self.cache_dir.join(repo.folder_name())
    }

    /// Where the library keeps the file's content; while it is not whole, with the extension `part`.
    fn blob(&self, remote: &Remote) -> PathBuf {
        self.repo_dir(remote).join("blobs").join(&remote.etag)
    }
}

/// Gives a whole file its name.
fn accept(remote: &Remote, blob: &Path, to: &Path) -> Result<Digest, HubError> {
    let written = |source| FileError::at("write to", to)(source);
    let (digest, bytes) = Digest::of_file(blob).map_err(written)?;
    if let Some(expected) = remote.sha256.filter(|expected| *expected != digest) {
        remove(blob)?;
        return Err(HubError::WrongDigest {
            url: remote.url.clone(),
            found: BinaryBytes(bytes),
            digest,
            expected,
        });
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(written)?;
    }
    fs::File::open(blob)
        .and_then(|file| file.sync_all())
        .map_err(written)?;
    rename(blob, to)?;
    Ok(digest)
}

impl HubError {
    /// Whether it may work in a moment.
    fn may_pass(&self) -> bool {
        match self {
            // After a silence the connection, and the file it writes to, are still held.
            Self::Unreachable { source, .. } => !source.is::<Silent>(),
            Self::Refused { code, .. } => *code >= 500 || *code == 429,
            Self::Strange { .. } | Self::WrongDigest { .. } | Self::TooLong { .. } | Self::Write(_) => false,
        }
    }
}

fn classified(endpoint: &str, url: &str, error: ApiError) -> HubError {
    let unreachable = |source| HubError::Unreachable {
        endpoint: endpoint.to_owned(),
        source,
    };
    let url = url.to_owned();
    match error {
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(code) => HubError::Refused {
                url,
                code,
                hint: match code {
                    401 | 403 => "access needs a token in HF_TOKEN, or the mirror does not have it",
                    404 => "the mirror or the hub does not have this file",
                    429 => "too many requests; run the same command later",
                    _ => "run the same command later, or name another mirror in HF_ENDPOINT",
                },
            },
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::TooManyRedirects => {
                HubError::Strange { url, source: error }
            }
            other => unreachable(Box::new(other)),
        },
        ApiError::IoError(source) if local(&source) => {
            FileError::at("write to", Path::new("the folder for weights"))(source).into()
        }
        ApiError::IoError(source) => unreachable(Box::new(source)),
        other => HubError::Strange {
            url,
            source: Box::new(other),
        },
    }
}

/// Whether an error is the file system's, not the network's.
fn local(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
            | ErrorKind::NotFound
    )
}

struct Meter {
    bar: ProgressBar,
    pulse: Pulse,
    /// The library counts what was there before as if it came now.
    to_skip: u64,
}

impl Progress for Meter {
    fn init(&mut self, _size: usize, _name: &str) {}

    fn update(&mut self, size: usize) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
        let size = size as u64;
        let skipped = size.min(std::mem::take(&mut self.to_skip));
        self.bar.inc(size - skipped);
    }

    fn finish(&mut self) {}
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn remove(path: &Path) -> Result<(), HubError> {
    Ok(unless_absent(fs::remove_file(path)).map_err(FileError::at("write to", path))?)
}

fn rename(from: &Path, to: &Path) -> Result<(), HubError> {
    Ok(fs::rename(from, to).map_err(FileError::at("write to", to))?)
}
