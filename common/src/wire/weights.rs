//! The list of the files of a folder of weights that a farm shares. The files themselves are blobs.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::Message;
use super::blob::BlobRef;

/// A folder of weights has three weight files, their configurations and what they are.
const MAX_FILES: usize = 16;

/// The files of one folder of weights. It is stored under the digest that identifies the weights, so that whoever has
/// fetched the files can tell whether they are those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedWeights {
    /// The files, in no particular order.
    pub files: Vec<SharedFile>,
}

/// One file of a folder of weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFile {
    /// Path of the file in its folder, such as `vae/config.json`.
    pub path: String,
    /// Content of the file.
    pub blob: BlobRef,
}

impl Message for SharedWeights {
    const KIND: u8 = 25;
}

impl SharedWeights {
    /// Whether the files can be written into a folder and nowhere else: there are some and not too many, each with a path
    /// of its own, which stays in the folder and has no hidden name, as files that are not complete have.
    pub fn is_sound(&self) -> bool {
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b"."));
        let is_inside = |path: &Path| path.components().next().is_some() && path.components().all(is_plain);
        let paths: BTreeSet<&Path> = self.files.iter().map(|file| Path::new(&file.path)).collect();
        (1..=MAX_FILES).contains(&self.files.len())
            && paths.len() == self.files.len()
            && paths.into_iter().all(is_inside)
    }

    /// Returns the size of all files together.
    pub fn bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| file.blob.bytes.saturating_add(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_list_that_leads_out_of_its_folder_is_not_sound() {
        let list = |paths: &[&str]| SharedWeights {
            files: paths
                .iter()
                .map(|path| SharedFile {
                    path: (*path).to_owned(),
                    blob: BlobRef {
                        digest: Digest::of(b""),
                        bytes: u64::MAX,
                    },
                })
                .collect(),
        };
        assert!(list(&["unet.pt", "vae/config.json"]).is_sound());
        assert_eq!(list(&["a", "b"]).bytes(), u64::MAX);
        for paths in [
            &["/etc/passwd"][..],
            &["a", "../b"],
            &["a/../../b"],
            &[""],
            &["."],
            &["./a"],
            &["vae/.staged-1"],
            &[".latentfarm-digests.json"],
            &["a", "a"],
            &["vae/a", "vae//a"],
            &[],
        ] {
            assert!(!list(paths).is_sound(), "{paths:?}");
        }
        let names: Vec<String> = (0..=MAX_FILES).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(list(&names[1..]).is_sound());
        assert!(!list(&names).is_sound());
    }
}
