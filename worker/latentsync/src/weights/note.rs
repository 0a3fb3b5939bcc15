//! The note in a folder of weights: what they are, who made the folder, and the digests of its files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ConfigError, WeightsError, parse, read_text};

/// Name of the note in a folder of weights.
pub const NOTE_FILE: &str = "latentfarm.json";

/// The optional note in a folder of weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// Random weights, for trying the farm.
    pub synthetic: bool,
    /// Side of the face crop that the model was made for.
    pub resolution_px: Option<u32>,
    pub note: String,
    /// The model as whose memory that of simulated GPUs is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_as: Option<AccountAs>,
    /// The command that made the folder, and may write there again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_by: Option<Maker>,
    /// By path in the folder, what the files were when they were made.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileRecord>,
}

/// A published model, as whose memory that of simulated GPUs is counted: so that small weights play a farm with
/// decisions of the real size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountAs {
    /// `LatentSync` 1.5: 256 px
    #[serde(rename = "1.5")]
    V15,
    /// `LatentSync` 1.6: 512 px
    #[serde(rename = "1.6")]
    V16,
}

impl AccountAs {
    /// Side of its faces.
    pub fn resolution_px(self) -> usize {
        match self {
            Self::V15 => 256,
            Self::V16 => 512,
        }
    }
}

/// A command that makes folders of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Maker {
    Synth,
    Convert,
    Pull,
    #[serde(other)]
    Other,
}

/// What a file was when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub bytes: u64,
    /// 64 hexadecimal digits.
    pub sha256: String,
    /// Where it comes from, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

impl Note {
    /// The folder's note, `None` where it has none.
    pub fn read(dir: &Path) -> Result<Option<Self>, WeightsError> {
        let path = dir.join(NOTE_FILE);
        read_text(&path)?
            .map(|text| parse(&path, serde_json::from_str(&text).map_err(ConfigError::Json)))
            .transpose()
    }

    /// Replaces the folder's note.
    pub fn write(&self, dir: &Path) -> Result<(), WeightsError> {
        write_json(&dir.join(NOTE_FILE), &serde_json::json!(self))
    }
}

/// Makes the folder if it is missing.
///
/// # Errors
/// Where it holds anything that `maker` did not make.
pub(crate) fn claim(dir: &Path, maker: Maker) -> Result<(), WeightsError> {
    let failed = |source| WeightsError::Folder {
        path: dir.to_owned(),
        source,
    };
    fs::create_dir_all(dir).map_err(failed)?;
    if fs::read_dir(dir).map_err(failed)?.next().is_none() {
        return Ok(());
    }
    let own = Note::read(dir)?.is_some_and(|note| {
        // Synthetic folders of earlier releases do not name their maker.
        note.made_by == Some(maker) || (maker == Maker::Synth && note.made_by.is_none() && note.synthetic)
    });
    if own {
        Ok(())
    } else {
        Err(WeightsError::Foreign { dir: dir.to_owned() })
    }
}

pub(crate) fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), WeightsError> {
    write_text(path, &format!("{value:#}\n"))
}

/// Writes under another name first: whoever reads finds the old text or the new.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), WeightsError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // Several workers may write the same file at once, so the name is a new one for each.
    tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.persist(path).map_err(std::io::Error::from)
        })
        .map(drop)
        .map_err(|source| WeightsError::Write {
            path: path.to_owned(),
            source: source.into(),
        })
}
