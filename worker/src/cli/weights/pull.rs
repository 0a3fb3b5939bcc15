//! `weights pull` downloads the published files of a model from the hub into a folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use indicatif::BinaryBytes;
use latentfarm_common::console::tell;
use latentfarm_common::digest::Digest;
use latentfarm_common::error::{Chain, FileError, ignore_not_found};
use latentfarm_common::wire::job::WeightsKind;

use super::hub::{Hub, HubError, PUBLIC_ENDPOINT, RemoteFile};
use crate::cli::exit::{print, usage_error};
use latentsync::checkpoint::{FolderMetadata, METADATA_FILE, MadeBy, PublishedModel};
use latentsync::tensors::FileRecord;
use latentsync::{Checkpoint, WeightsError};

pub(super) const HELP: &str = "\
Examples:
  latentfarm-worker weights pull --out ~/latentsync
  latentfarm-worker weights pull --model 1.6 --out ~/latentsync-1.6
  HF_ENDPOINT=https://mirror.example latentfarm-worker weights pull --out ~/latentsync

Environment:
  HF_ENDPOINT     a mirror to use in place of https://huggingface.co
  HF_TOKEN        a token for a mirror that requires one
  HF_HUB_OFFLINE  1: do not use the network, only print what would be fetched
  HTTPS_PROXY     a proxy to go through";

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct PullArgs {
    /// Model to fetch: LatentSync 1.5 renders faces at 256 px; 1.6 at 512 px, with about four times the work
    /// and memory
    #[arg(long, value_enum, default_value = "1.5")]
    model: Model,
    /// Folder to write to; files that are already there are kept
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[arg(long, hide = true, env = "HF_ENDPOINT", default_value = PUBLIC_ENDPOINT)]
    endpoint: String,
    #[arg(long, hide = true, env = "HF_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[arg(long, hide = true, env = "HF_HUB_OFFLINE", default_value = "0")]
    offline: String,
}

/// The published versions of LatentSync.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum Model {
    /// LatentSync 1.5, which renders faces at 256 px
    #[value(name = "1.5")]
    V1_5,
    /// LatentSync 1.6, which renders faces at 512 px
    #[value(name = "1.6")]
    V1_6,
}

/// A file on the hub (`repo`, `remote`) and its path in the folder (`local`).
struct PublishedFile {
    repo: &'static str,
    remote: &'static str,
    local: &'static str,
}

const VAE_REPO: &str = "stabilityai/sd-vae-ft-mse";

impl Model {
    fn repo(self) -> &'static str {
        match self {
            Self::V1_5 => "ByteDance/LatentSync-1.5",
            Self::V1_6 => "ByteDance/LatentSync-1.6",
        }
    }

    /// Returns the name of the same model in the metadata of a checkpoint.
    pub(super) fn account_as(self) -> PublishedModel {
        match self {
            Self::V1_5 => PublishedModel::V15,
            Self::V1_6 => PublishedModel::V16,
        }
    }

    fn resolution_px(self) -> u32 {
        match self {
            Self::V1_5 => 256,
            Self::V1_6 => 512,
        }
    }

    /// Returns the files of the model, the smallest first, so that a faulty mirror shows before gigabytes are
    /// fetched.
    fn files(self) -> [PublishedFile; 4] {
        let file = |repo, remote, local| PublishedFile { repo, remote, local };
        let vae = "diffusion_pytorch_model.safetensors";
        [
            file(VAE_REPO, "config.json", "vae/config.json"),
            file(self.repo(), "whisper/tiny.pt", "whisper/tiny.pt"),
            file(VAE_REPO, vae, "vae/diffusion_pytorch_model.safetensors"),
            file(self.repo(), "latentsync_unet.pt", "latentsync_unet.pt"),
        ]
    }
}

#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("HF_HUB_OFFLINE is set, so nothing is fetched")]
    Offline,
    #[error("`{}` is not the file that the hub has: move it away, or name another folder", path.display())]
    DifferentFile { path: PathBuf },
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Io(#[from] FileError),
}

pub(super) fn main(args: &PullArgs) -> ExitCode {
    match pull(args) {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(error @ (PullError::DifferentFile { .. } | PullError::Weights(WeightsError::Foreign { .. }))) => {
            usage_error(&error)
        }
        Err(error) => {
            tell(format_args!("error: {}", Chain(&error)));
            if matches!(
                error,
                PullError::Offline | PullError::Hub(HubError::Unreachable { .. })
            ) {
                tell(manual_steps(args));
            }
            ExitCode::FAILURE
        }
    }
}

/// Describes what the user can do if the hub cannot be reached.
fn manual_steps(args: &PullArgs) -> String {
    use std::fmt::Write as _;
    let endpoint = args.endpoint.trim_end_matches('/');
    let out = args.out.display();
    let mut text = String::from(
        "\nWhat was fetched so far is kept: the same command resumes from there.\n\
         - behind a proxy: set HTTPS_PROXY\n\
         - with a mirror of the hub: set HF_ENDPOINT\n\
         - without a connection, fetch these files on another machine and copy them here:\n",
    );
    for file in args.model.files() {
        let _infallible = writeln!(
            text,
            "    {endpoint}/{}/resolve/main/{}\n      as {}",
            file.repo,
            file.remote,
            args.out.join(file.local).display()
        );
    }
    let _infallible = write!(
        text,
        "    and a file {} with: {{\"resolution_px\": {}}}\n  then: latentfarm-worker weights verify {out}",
        args.out.join(METADATA_FILE).display(),
        args.model.resolution_px()
    );
    text
}

fn pull(args: &PullArgs) -> Result<String, PullError> {
    if !matches!(args.offline.as_str(), "" | "0" | "false" | "FALSE") {
        return Err(PullError::Offline);
    }
    let (out, model) = (args.out.as_path(), args.model);
    let mut metadata = open_metadata(out, model)?;
    let cache_dir = out.join(".pull");
    let token = args.token.clone().filter(|token| !token.is_empty());
    let endpoint = if args.endpoint.is_empty() {
        PUBLIC_ENDPOINT
    } else {
        &args.endpoint
    };
    let hub = Hub::new(endpoint, token, &cache_dir)?;
    for file in model.files() {
        let remote = hub.metadata(file.repo, file.remote)?;
        let path = out.join(file.local);
        let digest = match existing_digest(&path, &remote)? {
            Some(digest) => {
                tell(format_args!("{}: already there", file.local));
                digest
            }
            None => fetch(&hub, &file, &remote, &path)?,
        };
        metadata.files.insert(
            file.local.to_owned(),
            FileRecord {
                bytes: remote.bytes,
                sha256: digest.to_string(),
                source: format!("{}/{} at {}", file.repo, file.remote, remote.commit),
            },
        );
        metadata.write(out)?;
    }
    ignore_not_found(std::fs::remove_dir_all(&cache_dir)).map_err(FileError::at("use", &cache_dir))?;
    // The digests prove that the files are the published ones; this check, that this program can read them.
    let checkpoint = Checkpoint::open(out)?;
    checkpoint.check_tensors()?;
    Ok(format!(
        "{}: {}, {} px, {}, complete",
        out.display(),
        model.repo(),
        model.resolution_px(),
        BinaryBytes(checkpoint.bytes())
    ))
}

/// Reads the metadata of the folder, or begins it; refuses a folder that holds another model.
fn open_metadata(out: &Path, model: Model) -> Result<FolderMetadata, PullError> {
    std::fs::create_dir_all(out).map_err(FileError::at("use", out))?;
    let description = format!("{}, as published", model.repo());
    let mut metadata = FolderMetadata::read(out)?.unwrap_or_default();
    let pulled_before = metadata.made_by == Some(MadeBy::Pull) && metadata.note == description;
    // A folder that the user began by hand may be completed if it is for the same model.
    let begun_by_hand = metadata.made_by.is_none()
        && metadata.kind == WeightsKind::Trained
        && metadata
            .resolution_px
            .is_none_or(|px| px == model.resolution_px());
    if !pulled_before && !begun_by_hand {
        return Err(WeightsError::Foreign { dir: out.to_owned() }.into());
    }
    metadata.resolution_px = Some(model.resolution_px());
    metadata.made_by = Some(MadeBy::Pull);
    metadata.note = description;
    // The metadata comes first, so that even an unfinished folder states its resolution.
    metadata.write(out)?;
    Ok(metadata)
}

/// Returns the digest of a file that exists already, and refuses one that is not the published file.
fn existing_digest(path: &Path, remote: &RemoteFile) -> Result<Option<Digest>, PullError> {
    if !path.exists() {
        return Ok(None);
    }
    let (digest, bytes) = Digest::of_file(path).map_err(FileError::at("use", path))?;
    if bytes == remote.bytes && remote.sha256.is_none_or(|expected| expected == digest) {
        Ok(Some(digest))
    } else {
        Err(PullError::DifferentFile {
            path: path.to_owned(),
        })
    }
}

fn fetch(hub: &Hub, file: &PublishedFile, remote: &RemoteFile, path: &Path) -> Result<Digest, PullError> {
    tell(format_args!(
        "{}: {} from {}/{}",
        file.local,
        BinaryBytes(remote.bytes),
        hub.endpoint,
        file.repo
    ));
    let digest = hub.fetch(remote, path)?;
    if remote.sha256.is_some() {
        tell(format_args!(
            "{}: complete, with the SHA-256 that the hub gives",
            file.local
        ));
    } else {
        tell(format_args!(
            "{}: complete; the hub gives no SHA-256 for it, so only its size was checked",
            file.local
        ));
    }
    Ok(digest)
}
