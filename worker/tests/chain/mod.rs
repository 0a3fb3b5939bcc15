//! The whole-chain data of the golden folder: every `e2e*_config.json` and the tensors beside it.
//!
//! Output frames count from 0. A shortened file holds the last frames of the clip, so positions in its
//! tensors count from their ends.

use candle_core::Tensor;
use serde_json::Value;

use crate::support::{Golden, file_name, files, text};

/// One set of whole-chain data: its configuration and its tensors.
pub(crate) struct Chain {
    pub(crate) config: Value,
    pub(crate) golden: Golden,
}

pub(crate) fn chains() -> Vec<Chain> {
    let open = |path: &std::path::PathBuf| {
        let name = file_name(path);
        Chain {
            config: serde_json::from_str(&text(name)).unwrap(),
            golden: Golden::named(&name.replace("_config.json", "_io.safetensors")),
        }
    };
    files("e2e", "_config.json").iter().map(open).collect()
}

impl Chain {
    pub(crate) fn number(&self, key: &str) -> usize {
        let value = self.config[key].as_u64();
        usize::try_from(value.unwrap_or_else(|| panic!("no `{key}` beside {}", self.golden.file))).unwrap()
    }

    pub(crate) fn side(&self) -> usize {
        self.number("resolution")
    }

    /// Returns the entries for `count` output frames from `first` on, of a tensor with one entry for each
    /// output frame.
    pub(crate) fn part(&self, name: &str, first: usize, count: usize) -> Tensor {
        let whole = self.golden.get(name);
        let missing = self.number("num_chunks") - whole.dim(0).unwrap();
        whole.narrow(0, first - missing, count).unwrap()
    }
}

/// Returns the output frames that a tensor holds: those in `index` if their number agrees, or else the last
/// of the clip.
pub(crate) fn held(chain: &Chain, tensor: &Tensor, index: &str) -> Vec<i64> {
    let count = tensor.dim(0).unwrap();
    if chain.golden.find(index).is_some() {
        let listed = chain.golden.integers(index);
        if listed.len() == count {
            return listed;
        }
    }
    let total = chain.number("num_chunks");
    (total - count..total)
        .map(|frame| i64::try_from(frame).unwrap())
        .collect()
}
