//! Graphics cards that do not exist: files that an engine takes for a card's memory.

use std::fs;
use std::path::{Path, PathBuf};

/// A simulated card. Whoever writes to its file plays the other programs on it.
#[derive(Clone, Debug)]
pub struct Card {
    path: PathBuf,
    total_mib: u64,
    cost_percent: u64,
}

impl Card {
    /// A card named `name` in `dir` on which everything costs `cost_percent` of what is predicted.
    #[track_caller]
    pub fn new(dir: &Path, name: &str, total_mib: u64, cost_percent: u64) -> Self {
        let card = Self {
            path: dir.join(name),
            total_mib,
            cost_percent,
        };
        card.tenant(0);
        card
    }

    /// Other programs take `mib` from now on.
    #[track_caller]
    pub fn tenant(&self, mib: u64) {
        let Self {
            path,
            total_mib,
            cost_percent,
        } = self;
        let text = format!("total_mib = {total_mib}\ntenant_mib = {mib}\ncost_percent = {cost_percent}\n");
        // Renamed into place: an engine that reads meanwhile finds the old text or the new.
        let half = path.with_extension("new");
        fs::write(&half, text).expect("write a card");
        fs::rename(&half, path).expect("rename a card");
    }

    /// As `--device` takes it.
    pub fn device(&self) -> String {
        format!("sim:{}", self.path.display())
    }
}
