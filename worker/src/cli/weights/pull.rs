//! `weights pull`: the published files, from the hub into a folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use indicatif::BinaryBytes;
use latentfarm_common::digest::Digest;
use latentfarm_common::error::{Chain, FileError, unless_absent};

use super::hub::{Hub, HubError, PUBLIC_ENDPOINT, Remote};
use crate::cli::exit::{refuse, say};
use latentsync::checkpoint::{AccountAs, Maker, NOTE_FILE, Note};
use latentsync::tensors::FileRecord;
use latentsync::{Checkpoint, WeightsError};

pub(super) const HELP: &str = "\
Examples:
  latentfarm-worker weights pull --out ~/latentsync
  latentfarm-worker weights pull --model 1.6 --out ~/latentsync-1.6
  HF_ENDPOINT=https://mirror.example latentfarm-worker weights pull --out ~/latentsync

Environment:
  HF_ENDPOINT     a mirror to use in place of https://huggingface.co
  HF_TOKEN        a token for a mirror that asks for one
  HF_HUB_OFFLINE  1: do not use the network, only say what would be fetched
  HTTPS_PROXY     a proxy to go through";

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct PullArgs {
    /// LatentSync 1.5 renders faces at 256 px; 1.6 at 512 px, with about four times the work and memory
    #[arg(long, value_enum, default_value = "1.5")]
    model: Model,
    /// Folder to write to; files that are there already are kept
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[arg(long, hide = true, env = "HF_ENDPOINT", default_value = PUBLIC_ENDPOINT)]
    endpoint: String,
    #[arg(long, hide = true, env = "HF_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[arg(long, hide = true, env = "HF_HUB_OFFLINE", default_value = "0")]
    offline: String,
}

/// A published model.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum Model {
    /// LatentSync 1.5: 256 px
    #[value(name = "1.5")]
    V1_5,
    /// LatentSync 1.6: 512 px
    #[value(name = "1.6")]
    V1_6,
}

/// A published file and its place.
struct Item {
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

    /// The same model as a checkpoint's note names it.
    pub(super) fn account_as(self) -> AccountAs {
        match self {
            Self::V1_5 => AccountAs::V15,
            Self::V1_6 => AccountAs::V16,
        }
    }

    fn resolution_px(self) -> u32 {
        match self {
            Self::V1_5 => 256,
            Self::V1_6 => 512,
        }
    }

    /// The smallest first: what is wrong with a mirror shows before gigabytes.
    fn items(self) -> [Item; 4] {
        let item = |repo, remote, local| Item { repo, remote, local };
        let vae = "diffusion_pytorch_model.safetensors";
        [
            item(VAE_REPO, "config.json", "vae/config.json"),
            item(self.repo(), "whisper/tiny.pt", "whisper/tiny.pt"),
            item(VAE_REPO, vae, "vae/diffusion_pytorch_model.safetensors"),
            item(self.repo(), "latentsync_unet.pt", "latentsync_unet.pt"),
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
    Other { path: PathBuf },
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Io(#[from] FileError),
}

pub(super) fn main(args: &PullArgs) -> ExitCode {
    match pull(args) {
        Ok(text) => say(&text, ExitCode::SUCCESS),
        Err(error @ (PullError::Other { .. } | PullError::Weights(WeightsError::Foreign { .. }))) => {
            refuse(&error)
        }
        Err(error) => {
            eprintln!("error: {}", Chain(&error));
            if matches!(
                error,
                PullError::Offline | PullError::Hub(HubError::Unreachable { .. })
            ) {
                eprintln!("{}", by_hand(args));
            }
            ExitCode::FAILURE
        }
    }
}

/// What to do where the hub cannot be reached.
fn by_hand(args: &PullArgs) -> String {
    use std::fmt::Write as _;
    let endpoint = args.endpoint.trim_end_matches('/');
    let out = args.out.display();
    let mut text = String::from(
        "\nWhat was fetched so far is kept: the same command goes on from there.\n\
         - behind a proxy: set HTTPS_PROXY\n\
         - with a mirror of the hub: set HF_ENDPOINT\n\
         - without a connection, fetch these files on another machine and put them so:\n",
    );
    for item in args.model.items() {
        // Writing to a text cannot fail.
        let _written = writeln!(
            text,
            "    {endpoint}/{}/resolve/main/{}\n      as {}",
            item.repo,
            item.remote,
            args.out.join(item.local).display()
        );
    }
    let _written = write!(
        text,
        "    and a file {} with: {{\"resolution_px\": {}}}\n  then: latentfarm-worker weights verify {out}",
        args.out.join(NOTE_FILE).display(),
        args.model.resolution_px()
    );
    text
}

fn pull(args: &PullArgs) -> Result<String, PullError> {
    if !matches!(args.offline.as_str(), "" | "0" | "false" | "FALSE") {
        return Err(PullError::Offline);
    }
    let (out, model) = (args.out.as_path(), args.model);
    let mut note = begin(out, model)?;
    let cache_dir = out.join(".pull");
    let token = args.token.clone().filter(|token| !token.is_empty());
    let endpoint = if args.endpoint.is_empty() {
        PUBLIC_ENDPOINT
    } else {
        &args.endpoint
    };
    let hub = Hub::new(endpoint, token, &cache_dir)?;
    for item in model.items() {
        let remote = hub.look_up(item.repo, item.remote)?;
        let path = out.join(item.local);
        let digest = match kept(&path, &remote)? {
            Some(digest) => {
                eprintln!("{}: is there already", item.local);
                digest
            }
            None => fetch(&hub, &item, &remote, &path)?,
        };
        note.files.insert(
            item.local.to_owned(),
            FileRecord {
                bytes: remote.bytes,
                sha256: digest.to_string(),
                source: format!("{}/{} at {}", item.repo, item.remote, remote.commit),
            },
        );
        note.write(out)?;
    }
    unless_absent(std::fs::remove_dir_all(&cache_dir)).map_err(FileError::at("use", &cache_dir))?;
    // The digests say that the files are the published ones; this, that they are what this program expects.
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

/// The folder's note, after a look at what the folder is.
fn begin(out: &Path, model: Model) -> Result<Note, PullError> {
    std::fs::create_dir_all(out).map_err(FileError::at("use", out))?;
    let description = format!("{}, as published", model.repo());
    let mut note = Note::read(out)?.unwrap_or_default();
    let pulled_before = note.made_by == Some(Maker::Pull) && note.note == description;
    // A folder that someone began by hand may be completed, if it is for the same model.
    let by_hand = note.made_by.is_none()
        && !note.synthetic
        && note.resolution_px.is_none_or(|px| px == model.resolution_px());
    if !pulled_before && !by_hand {
        return Err(WeightsError::Foreign { dir: out.to_owned() }.into());
    }
    note.resolution_px = Some(model.resolution_px());
    note.made_by = Some(Maker::Pull);
    note.note = description;
    // First of all: whatever of the folder is ever found says its resolution.
    note.write(out)?;
    Ok(note)
}

/// The digest of a file that is there already, if it is the published one.
fn kept(path: &Path, remote: &Remote) -> Result<Option<Digest>, PullError> {
    if !path.exists() {
        return Ok(None);
    }
    let (digest, bytes) = Digest::of_file(path).map_err(FileError::at("use", path))?;
    if bytes == remote.bytes && remote.sha256.is_none_or(|expected| expected == digest) {
        Ok(Some(digest))
    } else {
        Err(PullError::Other {
            path: path.to_owned(),
        })
    }
}

fn fetch(hub: &Hub, item: &Item, remote: &Remote, path: &Path) -> Result<Digest, PullError> {
    eprintln!(
        "{}: {} from {}/{}",
        item.local,
        BinaryBytes(remote.bytes),
        hub.endpoint,
        item.repo
    );
    let digest = hub.fetch(remote, path)?;
    if remote.sha256.is_some() {
        eprintln!(
            "{}: complete, its SHA-256 is the one that the hub names",
            item.local
        );
    } else {
        eprintln!(
            "{}: complete; the hub names no SHA-256 for it, so only its size was compared",
            item.local
        );
    }
    Ok(digest)
}
