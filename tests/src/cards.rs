//! Simulated graphics cards: text files that an engine reads instead of a card's memory.

use std::fs;
use std::path::{Path, PathBuf};

/// A simulated card. The test writes its file, and so acts as the other programs on the card.
#[derive(Clone, Debug)]
pub struct Card {
    path: PathBuf,
    total_mib: u64,
    cost_percent: u64,
}

impl Card {
    /// Makes a card named `name` in `dir`. Everything uses `cost_percent` of the memory that is predicted.
    #[track_caller]
    pub fn new(dir: &Path, name: &str, total_mib: u64, cost_percent: u64) -> Self {
        let card = Self {
            path: dir.join(name),
            total_mib,
            cost_percent,
        };
        card.set_tenant(0);
        card
    }

    /// Sets the memory that other programs use from now on.
    #[track_caller]
    pub fn set_tenant(&self, mib: u64) {
        let Self {
            path,
            total_mib,
            cost_percent,
        } = self;
        let text = format!("total_mib = {total_mib}\ntenant_mib = {mib}\ncost_percent = {cost_percent}\n");
        // The file is renamed into place, so that an engine that reads it meanwhile finds the old text or the
        // new.
        let half = path.with_extension("new");
        fs::write(&half, text).expect("write a card");
        fs::rename(&half, path).expect("rename a card");
    }

    /// Returns the card as a value of `--device`.
    pub fn device(&self) -> String {
        format!("sim:{}", self.path.display())
    }
}
