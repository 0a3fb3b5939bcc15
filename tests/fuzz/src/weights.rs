//! Target `weights`: one file of a folder of weights, and the weights of the face networks.

use std::cell::LazyCell;
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::Path;

use latentfarm_common::wire::memory::DeviceKind;
use latentsync::checkpoint::{Checkpoint, METADATA_FILE, verify, whisper_dims};
use latentsync::cost::compute::ComputeSpec;
use latentsync::cost::prediction::MemoryPredictor;
use latentsync::cost::shape::ModelShape;
use latentsync::tensors::{list_tensors, read_tensor};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

use crate::input::choice;

/// The small files of a folder that is complete but for its tensors.
const FOLDER: [(&str, &[u8]); 6] = [
    ("latentsync_unet.safetensors", EMPTY),
    ("vae/diffusion_pytorch_model.safetensors", EMPTY),
    ("whisper/tiny.safetensors", EMPTY),
    ("unet_config.json", include_bytes!("../seeds/unet_config.json")),
    ("vae/config.json", include_bytes!("../seeds/vae_config.json")),
    ("whisper/tiny.json", include_bytes!("../seeds/tiny.json")),
];
/// A safetensors file without tensors.
const EMPTY: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

/// What the rest of the input becomes.
const PLACES: [Place; 9] = [
    Place::File("latentsync_unet.safetensors"),
    Place::File("latentsync_unet.pt"),
    Place::Pickle("latentsync_unet.pt"),
    Place::Pickle("whisper/tiny.pt"),
    Place::File("unet_config.json"),
    Place::File("vae/config.json"),
    Place::File("whisper/tiny.json"),
    Place::File(METADATA_FILE),
    Place::FaceNetwork,
];

enum Place {
    /// The content of a file.
    File(&'static str),
    /// The pickle in a file that is otherwise as `torch.save` writes it.
    Pickle(&'static str),
    /// A `.tflite` file.
    FaceNetwork,
}

thread_local! {
    static DIR: LazyCell<TempDir> = LazyCell::new(|| {
        folder().unwrap_or_else(|error| panic!("cannot write a folder of weights: {error}"))
    });
}

/// Puts the input in the place that its first byte chooses, and opens and verifies the folder.
///
/// # Panics
/// Panics if the folder cannot be written.
pub fn check(data: &[u8]) {
    let Some((place, content)) = choice(data, PLACES.len()) else {
        return;
    };
    let (name, content) = match PLACES[place] {
        Place::File(name) => (name, content.to_vec()),
        Place::Pickle(name) => (name, archive(content)),
        Place::FaceNetwork => {
            let _refused = latentfarm_face::fuzzing::read_network(content);
            return;
        }
    };
    DIR.with(|dir| {
        open_with(dir.path(), name, &content).unwrap_or_else(|error| panic!("cannot write {name}: {error}"));
    });
}

fn open_with(dir: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    let path = dir.join(name);
    // A new file in place of the old one: the digests that are kept beside the weights must not be believed.
    fs::write(&path, content)?;
    let is_text = name.ends_with("json");
    let tensors = if is_text {
        Vec::new()
    } else {
        list_tensors(&path).unwrap_or_default()
    };
    for (tensor, _) in &tensors {
        let _refused = read_tensor(&path, tensor);
    }
    // Without tensors, the folder is what it was before, and opening it is slow.
    if is_text || !tensors.is_empty() {
        let _refused = whisper_dims(&path);
        if let Ok(checkpoint) = Checkpoint::open(dir) {
            let _refused = checkpoint.check_tensors();
            if name == METADATA_FILE {
                // `weights describe` and the engine predict with the resolution that it gives.
                let spec = ComputeSpec::of(DeviceKind::Cpu);
                let predictor = MemoryPredictor::new(ModelShape::of(&checkpoint), spec);
                let _needs = predictor.map(|mut predictor| predictor.needs(true));
            }
        }
        let _refused = verify(dir, &mut |_| ());
    }
    match FOLDER.iter().find(|(usual, _)| *usual == name) {
        Some((_, usual)) => fs::write(path, usual),
        None => fs::remove_file(path),
    }
}

fn folder() -> std::io::Result<TempDir> {
    let dir = tempfile::tempdir()?;
    for sub_folder in ["vae", "whisper"] {
        fs::create_dir(dir.path().join(sub_folder))?;
    }
    for (name, content) in FOLDER {
        fs::write(dir.path().join(name), content)?;
    }
    Ok(dir)
}

/// Makes an archive as `torch.save` does, with the data of one small tensor.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [("archive/data.pkl", pickle), ("archive/data/0", &[0; 24])] {
        zip.start_file(name, stored)
            .and_then(|()| Ok(zip.write_all(content)?))
            .unwrap_or_else(|error| panic!("cannot write {name}: {error}"));
    }
    match zip.finish() {
        Ok(written) => written.into_inner(),
        Err(error) => panic!("cannot write an archive: {error}"),
    }
}

/// Small files of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let header = br#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
    let length = u64::try_from(header.len()).unwrap_or(0).to_le_bytes();
    let safetensors = [&length, &header[..], &[0; 24]].concat();
    let pickle: &[u8] = include_bytes!("../seeds/data.pkl");
    let published = [
        latentsync::config::UNetConfig::PUBLISHED,
        latentsync::config::VaeConfig::PUBLISHED,
    ];
    let metadata = br#"{"kind":"synthetic","resolution_px":64,"account_as":"1.5","made_by":"synth",
        "files":{"a":{"bytes":2,"sha256":"00"}}}"#;
    let contents: [(u8, Vec<u8>); 11] = [
        (0, EMPTY.to_vec()),
        (0, safetensors),
        (1, archive(pickle)),
        (2, pickle.to_vec()),
        (3, pickle.to_vec()),
        (4, FOLDER[3].1.to_vec()),
        (4, published[0].into()),
        (5, FOLDER[4].1.to_vec()),
        (6, FOLDER[5].1.to_vec()),
        (7, metadata.to_vec()),
        (8, include_bytes!("../seeds/network.tflite").to_vec()),
    ];
    contents
        .into_iter()
        .map(|(place, content)| [vec![place], content].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_readable() {
        let dir = tempfile::tempdir().unwrap();
        let seeds = seeds();
        let content = |place: u8| seeds.iter().rev().find(|seed| seed[0] == place).unwrap()[1..].to_vec();
        for (name, content) in [("a.safetensors", content(0)), ("a.pt", content(1))] {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            assert_eq!(
                list_tensors(&path).unwrap(),
                [("a".to_owned(), vec![2, 3])],
                "{name}"
            );
            assert_eq!(read_tensor(&path, "a").unwrap().dims(), [2, 3]);
        }
        latentfarm_face::fuzzing::read_network(&content(8)).unwrap();
        Checkpoint::open(folder().unwrap().path()).unwrap();
    }
}
