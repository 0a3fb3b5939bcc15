//! The checks that were passed, in a file of this user, so that a worker does not repeat them at each start.

use std::fs;
use std::path::{Path, PathBuf};

use latentfarm_common::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::machine::probe::Gpu;

/// The most checks that are kept.
const MOST: usize = 256;

/// A check that was passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pass {
    /// The digest of the engine program.
    engine: String,
    gpu: String,
    driver: String,
}

/// The file of the checks that were passed.
pub(super) struct Passes {
    path: PathBuf,
}

impl Pass {
    /// The pass of this engine on this GPU; `None` if it could not be distinguished from another one's.
    pub(super) fn new(engine: &Path, gpu: &Gpu, driver: Option<&str>) -> Option<Self> {
        let (digest, _bytes) = Digest::of_file(engine).ok()?;
        Some(Self {
            engine: digest.to_string(),
            gpu: gpu.uuid.clone(),
            driver: driver?.to_owned(),
        })
    }
}

impl Passes {
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub(super) fn contains(&self, pass: &Pass) -> bool {
        self.read().contains(pass)
    }

    /// Adds a pass. If that fails, the check is repeated at the next start.
    pub(super) fn add(&self, pass: Pass) {
        let mut all = self.read();
        all.push(pass);
        let excess = all.len().saturating_sub(MOST);
        all.drain(..excess);
        if let Err(error) = self.write(&all) {
            tracing::debug!(file = %self.path.display(), %error, "cannot keep that a GPU passed its check");
        }
    }

    fn read(&self) -> Vec<Pass> {
        let bytes = fs::read(&self.path).ok();
        let read = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        read.unwrap_or_default()
    }

    fn write(&self, all: &[Pass]) -> std::io::Result<()> {
        let parent = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let file = tempfile::NamedTempFile::new_in(parent)?;
        serde_json::to_writer(&file, all)?;
        file.persist(&self.path)?;
        Ok(())
    }
}
