//! The metadata of a folder of weights, `latentfarm.json`: what the weights are, which command made the
//! folder, and the digests of its files. `weights pull`, `convert` and `synth` write it;
//! [`Checkpoint::open`](super::Checkpoint::open) reads it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use latentfarm_common::wire::job::WeightsKind;
use serde::{Deserialize, Serialize};

use super::text::{read_text, write_json};
use crate::config::{ConfigError, check};
use crate::tensors::{FileRecord, WeightsError};

/// The name of the metadata file in a folder of weights.
pub const METADATA_FILE: &str = "latentfarm.json";

/// The contents of the metadata file, which is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FolderMetadata {
    /// What the weights are.
    pub kind: WeightsKind,
    /// The side in pixels of the face crop that the model was trained with.
    pub resolution_px: Option<u32>,
    /// The number of denoising steps that the weights were trained for. Jobs take it if nothing else is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// A description of the weights for people.
    pub note: String,
    /// The published model whose memory a simulated GPU charges instead of that of these weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_as: Option<PublishedModel>,
    /// The command that made the folder; it alone may write there again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_by: Option<MadeBy>,
    /// The sizes and digests of the files when they were made, by path in the folder.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileRecord>,
}

/// A published model whose memory a simulated GPU can charge for small weights, so that a test farm makes the
/// decisions of a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublishedModel {
    /// `LatentSync` 1.5, which renders faces of 256 px.
    #[serde(rename = "1.5")]
    V15,
    /// `LatentSync` 1.6, which renders faces of 512 px.
    #[serde(rename = "1.6")]
    V16,
}

impl PublishedModel {
    /// Returns the side of the model's faces in pixels.
    pub fn resolution_px(self) -> usize {
        match self {
            Self::V15 => 256,
            Self::V16 => 512,
        }
    }
}

/// The command that made a folder of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MadeBy {
    /// The folder was made by `weights synth`.
    Synth,
    /// The folder was made by `weights convert`.
    Convert,
    /// The folder was made by `weights pull`.
    Pull,
    /// The folder has the demo weights that come with latentfarm.
    Demo,
    /// The folder was made by a command that this release does not have.
    #[serde(other)]
    Other,
}

impl FolderMetadata {
    /// Reads the metadata of a folder; `None` if it has none.
    ///
    /// # Errors
    /// [`WeightsError::Io`] if the file cannot be read, [`WeightsError::Config`] if it is not valid.
    pub fn read(dir: &Path) -> Result<Option<Self>, WeightsError> {
        let path = dir.join(METADATA_FILE);
        read_text(&path)?
            .map(|text| Self::from_json(&text))
            .transpose()
            .map_err(WeightsError::config(&path))
    }

    fn from_json(text: &str) -> Result<Self, ConfigError> {
        let metadata: Self = serde_json::from_str(text).map_err(ConfigError::Json)?;
        check(
            metadata
                .resolution_px
                .is_none_or(|side| (64..=1024).contains(&side) && side.is_multiple_of(64)),
            "resolution_px",
            metadata.resolution_px,
            "a multiple of 64 up to 1024 is supported",
        )?;
        check(
            metadata.steps.is_none_or(|steps| (1..=1000).contains(&steps)),
            "steps",
            metadata.steps,
            "1 to 1000 are supported",
        )?;
        Ok(metadata)
    }

    /// Writes the metadata of a folder and replaces what it had.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), WeightsError> {
        write_json(&dir.join(METADATA_FILE), &serde_json::json!(self))
    }
}

/// Makes the folder if it is missing, and checks that `maker` may write there.
///
/// # Errors
/// [`WeightsError::Foreign`] if the folder holds files that `maker` did not make.
pub(super) fn prepare_folder(dir: &Path, maker: MadeBy) -> Result<(), WeightsError> {
    let failed = WeightsError::folder(dir);
    fs::create_dir_all(dir).map_err(failed)?;
    if fs::read_dir(dir).map_err(failed)?.next().is_none() {
        return Ok(());
    }
    let own = FolderMetadata::read(dir)?.is_some_and(|metadata| metadata.made_by == Some(maker));
    if own {
        Ok(())
    } else {
        Err(WeightsError::Foreign { dir: dir.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_trained_unless_the_folder_says_otherwise_and_steps_are_checked() {
        let read = |text: &str| FolderMetadata::from_json(text);
        assert_eq!(read("{}").unwrap().kind, WeightsKind::Trained);
        let demo = read(r#"{"kind": "demo", "steps": 3}"#).unwrap();
        assert_eq!((demo.kind, demo.steps), (WeightsKind::Demo, Some(3)));
        assert!(read(r#"{"kind": "other"}"#).is_err());
        assert!(read(r#"{"steps": 0}"#).is_err() && read(r#"{"steps": 1001}"#).is_err());
    }

    #[test]
    fn a_resolution_that_no_model_has_is_refused() {
        for (side, good) in [
            (64, true),
            (512, true),
            (0, false),
            (250, false),
            (u32::MAX, false),
        ] {
            let read = FolderMetadata::from_json(&format!("{{\"resolution_px\": {side}}}"));
            assert_eq!(read.is_ok(), good, "{side}: {read:?}");
        }
    }
}
