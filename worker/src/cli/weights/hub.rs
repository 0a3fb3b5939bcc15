//! Downloads single files from the Hugging Face hub, or from a mirror of it, for `weights pull`.
//!
//! The `hf-hub` crate does the transfer: it keeps what it has fetched in `CACHE/models--…/blobs/ETAG.part`
//! and resumes from there. It does not compare digests, does not notice a server that ignores the requested
//! range, and waits for ever on a stalled connection; this module adds those checks.

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
use latentfarm_common::console::tell;
use latentfarm_common::digest::Digest;
use latentfarm_common::error::{FileError, ignore_not_found, one_line};

use super::bar::bar;
use super::stall::{Activity, Stalled, with_stall_limit};

pub(super) const PUBLIC_ENDPOINT: &str = "https://huggingface.co";

/// A connection that brings no data for this long is given up.
const STALL_LIMIT: Duration = Duration::from_mins(1);

/// Number of connections in a row that may break without having brought any data.
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
    NotAHub {
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
    #[error("{url} sent more than the {expected} bytes that it had announced: nothing of it was kept")]
    TooLong { url: String, expected: u64 },
    #[error(transparent)]
    Write(#[from] FileError),
}

/// A file on the hub, with the metadata that the hub gives for it.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    pub(super) url: String,
    repo: String,
    name: String,
    etag: String,
    /// The Git commit of the repository.
    pub(super) commit: String,
    pub(super) bytes: u64,
    /// Digest of the content; the hub gives none for small text files.
    pub(super) sha256: Option<Digest>,
}

/// A client of the hub, and the folder in which it keeps unfinished downloads.
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
            // Its own retries would append to the file without reading its length first.
            .with_retries(0)
            .with_user_agent("latentfarm", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|source| classify(&endpoint, &endpoint, source))?;
        Ok(Self {
            api,
            cache_dir: cache_dir.to_owned(),
            endpoint,
        })
    }

    /// Requests the metadata of a file.
    pub(super) fn metadata(&self, repo: &str, name: &str) -> Result<RemoteFile, HubError> {
        let url = self.api.model(repo.to_owned()).url(name);
        let (api, requested) = (self.api.clone(), url.clone());
        let answer = with_stall_limit(STALL_LIMIT, &Arc::default(), move || api.metadata(&requested));
        let metadata = self.outcome(&url, answer)?;
        let etag = metadata.etag().to_owned();
        // Both become file names in the cache.
        let is_name = |text: &str| {
            !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        if !is_name(&etag) || !is_name(metadata.commit_hash()) {
            return Err(HubError::NotAHub {
                url,
                source: format!("its ETag is `{etag}` and its commit `{}`", metadata.commit_hash()).into(),
            });
        }
        Ok(RemoteFile {
            url,
            repo: repo.to_owned(),
            name: name.to_owned(),
            commit: metadata.commit_hash().to_owned(),
            bytes: metadata.size() as u64,
            sha256: etag.parse().ok(),
            etag,
        })
    }

    /// Downloads a file to `to`, which must be on the file system of the cache, and resumes where an earlier
    /// call was cut off. A file whose digest is not the one that the hub gives is deleted.
    pub(super) fn fetch(&self, remote: &RemoteFile, to: &Path) -> Result<Digest, HubError> {
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
                tell(format_args!(
                    "{}: the server cannot resume a download, starting again",
                    remote.name
                ));
                continue;
            }
            if had == remote.bytes && had > 0 {
                rename(&part, &blob)?;
            }
            if blob.exists() {
                if length(&blob) == remote.bytes {
                    break;
                }
                // The connection ended early without an error.
                rename(&blob, &part)?;
            }
            let had = length(&part);
            if had > 0 {
                tell(format_args!("{}: resuming at {}", remote.name, BinaryBytes(had)));
            }
            let Err(error) = self.download(remote, had) else {
                continue;
            };
            if length(&part) > had {
                failures = 0;
                backoff.reset();
            }
            failures += 1;
            if failures >= ATTEMPTS || !error.is_retryable() {
                return Err(error);
            }
            tell(format_args!("{}: {}; retrying", remote.name, one_line(&error)));
            std::thread::park_timeout(backoff.next_delay());
        }
        move_into_place(remote, &blob, to)
    }

    /// Downloads over one connection, as far as it lasts; `had` bytes are there already.
    fn download(&self, remote: &RemoteFile, had: u64) -> Result<(), HubError> {
        // The library fails if links to the blobs of earlier calls exist.
        let repo_dir = self.repo_dir(remote);
        for links in ["snapshots", "refs"] {
            ignore_not_found(fs::remove_dir_all(repo_dir.join(links)))
                .map_err(FileError::at("write to", &repo_dir))?;
        }
        let bar = bar(&remote.name, remote.bytes);
        bar.set_position(had);
        let activity = Activity::default();
        let (repo, name) = (self.api.model(remote.repo.clone()), remote.name.clone());
        let progress = DownloadProgress {
            bar: bar.clone(),
            activity: Arc::clone(&activity),
            to_skip: had,
        };
        let answer = with_stall_limit(STALL_LIMIT, &activity, move || {
            repo.download_with_progress(&name, progress)
        });
        // The thread of a stalled connection stays, with a clone of the bar.
        bar.finish_and_clear();
        self.outcome(&remote.url, answer).map(drop)
    }

    /// Turns the outcome of a call of the library into an error of this module.
    fn outcome<T>(&self, url: &str, answer: Result<Result<T, ApiError>, Stalled>) -> Result<T, HubError> {
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(classify(&self.endpoint, url, error)),
            Err(stalled) => Err(HubError::Unreachable {
                endpoint: self.endpoint.clone(),
                source: stalled.into(),
            }),
        }
    }

    fn repo_dir(&self, remote: &RemoteFile) -> PathBuf {
        let repo = Repo::new(remote.repo.clone(), RepoType::Model);
        self.cache_dir.join(repo.folder_name())
    }

    /// Returns the path at which the library keeps the content; while unfinished, it has the extension
    /// `part`.
    fn blob(&self, remote: &RemoteFile) -> PathBuf {
        self.repo_dir(remote).join("blobs").join(&remote.etag)
    }
}

/// Checks the digest of a complete file and renames it to `to`.
fn move_into_place(remote: &RemoteFile, blob: &Path, to: &Path) -> Result<Digest, HubError> {
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
    /// Whether the same request may succeed a moment later.
    fn is_retryable(&self) -> bool {
        match self {
            // The thread of a stalled connection still holds the file that it writes to.
            Self::Unreachable { source, .. } => !source.is::<Stalled>(),
            Self::Refused { code, .. } => *code >= 500 || *code == 429,
            Self::NotAHub { .. } | Self::WrongDigest { .. } | Self::TooLong { .. } | Self::Write(_) => false,
        }
    }
}

fn classify(endpoint: &str, url: &str, error: ApiError) -> HubError {
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
                HubError::NotAHub { url, source: error }
            }
            other => unreachable(Box::new(other)),
        },
        ApiError::IoError(source) if is_local(&source) => {
            FileError::at("write to", Path::new("the folder for weights"))(source).into()
        }
        ApiError::IoError(source) => unreachable(Box::new(source)),
        other => HubError::NotAHub {
            url,
            source: Box::new(other),
        },
    }
}

/// Whether an error comes from the file system and not from the network.
fn is_local(error: &std::io::Error) -> bool {
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

/// Shows the progress of a download and counts its activity.
struct DownloadProgress {
    bar: ProgressBar,
    activity: Activity,
    /// Bytes that were there before, which the library reports first, as if they came now.
    to_skip: u64,
}

impl Progress for DownloadProgress {
    fn init(&mut self, _size: usize, _name: &str) {}

    fn update(&mut self, size: usize) {
        self.activity.fetch_add(1, Ordering::Relaxed);
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
    Ok(ignore_not_found(fs::remove_file(path)).map_err(FileError::at("write to", path))?)
}

fn rename(from: &Path, to: &Path) -> Result<(), HubError> {
    Ok(fs::rename(from, to).map_err(FileError::at("write to", to))?)
}
