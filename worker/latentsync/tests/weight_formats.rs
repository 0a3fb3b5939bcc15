//! Checks that every format in which weights are published loads to the same numbers, and that errors name
//! what does not fit.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;
mod torch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use latentsync::checkpoint::{TensorShapes, unet_tensors, vae_tensors, whisper_dims, whisper_tensors};
use latentsync::config::{UNetConfig, VaeConfig, WhisperDims};
use latentsync::synth::{Size, synthesize};
use latentsync::tensors::{list_tensors, read_tensor};
use latentsync::{Checkpoint, ExecutionOptions, LatentSync};
use serde_json::Value;
use support::files;
use torch::{Around, TINY_WHISPER_DIMS, tensors_of};

const UNET: &str = "latentsync_unet";
const VAE: &str = "vae/diffusion_pytorch_model";
const WHISPER: &str = "whisper/tiny";

fn tiny() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    synthesize(dir.path(), Size::Tiny, 3).unwrap();
    dir
}

fn safetensors(dir: &Path, name: &str) -> PathBuf {
    dir.join(name).with_extension("safetensors")
}

/// Replaces the safetensors file of a network by a torch file.
fn as_torch(
    dir: &Path,
    name: &str,
    extension: &str,
    around: Around,
    change: impl Fn(&mut BTreeMap<String, Tensor>),
) {
    let mut tensors = tensors_of(&safetensors(dir, name));
    change(&mut tensors);
    std::fs::remove_file(safetensors(dir, name)).unwrap();
    torch::save(&dir.join(name).with_extension(extension), &tensors, around);
}

fn save(path: &Path, tensors: BTreeMap<String, Tensor>) {
    candle_core::safetensors::save(&tensors.into_iter().collect(), path).unwrap();
}

fn load(dir: &Path) -> LatentSync {
    let checkpoint = Checkpoint::open(dir).unwrap_or_else(|error| panic!("{error}"));
    checkpoint
        .check_tensors()
        .unwrap_or_else(|error| panic!("{error}"));
    LatentSync::load(&checkpoint, &Device::Cpu, DType::F32, ExecutionOptions::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the values of every ninth tensor of a file; reading all would be slow, because each one opens the
/// file again.
fn contents(path: &Path) -> BTreeMap<String, Vec<f32>> {
    list_tensors(path)
        .unwrap()
        .into_iter()
        .step_by(9)
        .map(|(name, _)| {
            let values = support::values(&read_tensor(path, &name).unwrap());
            (name, values)
        })
        .collect()
}

#[test]
fn unet_loads_from_a_torch_file_with_and_without_its_enclosing_dictionary() {
    let original = tiny();
    let expected = contents(&safetensors(original.path(), UNET));
    for around in [Around::Training, Around::Nothing] {
        let dir = tiny();
        as_torch(dir.path(), UNET, "pt", around, |_| ());
        load(dir.path());
        assert!(contents(&dir.path().join("latentsync_unet.pt")) == expected);
    }
}

#[test]
fn vae_loads_with_older_and_newer_names_from_safetensors_and_from_a_torch_file() {
    let modern = |tensors: &mut BTreeMap<String, Tensor>| {
        let renamed: BTreeMap<String, Tensor> = std::mem::take(tensors)
            .into_iter()
            .map(|(name, tensor)| {
                let newer = name
                    .replace(".query.", ".to_q.")
                    .replace(".key.", ".to_k.")
                    .replace(".value.", ".to_v.")
                    .replace(".proj_attn.", ".to_out.0.");
                (newer, tensor)
            })
            .collect();
        *tensors = renamed;
    };
    let older = tiny();
    let names = list_tensors(&safetensors(older.path(), VAE)).unwrap();
    assert!(names.iter().any(|(name, _)| name.contains("proj_attn")));
    load(older.path());

    let newer = tiny();
    let mut tensors = tensors_of(&safetensors(newer.path(), VAE));
    modern(&mut tensors);
    assert!(tensors.keys().any(|name| name.contains("to_out.0")));
    save(&safetensors(newer.path(), VAE), tensors);
    load(newer.path());

    let torch_older = tiny();
    as_torch(torch_older.path(), VAE, "bin", Around::Nothing, |_| ());
    load(torch_older.path());
    let torch_newer = tiny();
    as_torch(torch_newer.path(), VAE, "bin", Around::Nothing, modern);
    load(torch_newer.path());
}

#[test]
fn whisper_loads_as_published_with_its_dims_inside_and_its_decoder_ignored() {
    let dir = tiny();
    let expected = whisper_dims(&safetensors(dir.path(), WHISPER)).unwrap();
    std::fs::remove_file(dir.path().join("whisper/tiny.json")).unwrap();
    as_torch(
        dir.path(),
        WHISPER,
        "pt",
        Around::Whisper {
            dims: TINY_WHISPER_DIMS,
        },
        |tensors| {
            let stray = Tensor::zeros((3, 4), DType::F16, &Device::Cpu).unwrap();
            tensors.insert("decoder.token_embedding.weight".to_owned(), stray);
        },
    );
    let path = dir.path().join("whisper/tiny.pt");
    // There are 2 heads of 32; a guess from the width would give 1.
    assert_eq!(whisper_dims(&path).unwrap(), expected);
    load(dir.path());
}

#[test]
fn whisper_of_the_width_that_the_unet_needs_is_chosen() {
    let dir = tiny();
    for extension in ["safetensors", "json"] {
        let path = |size: &str| dir.path().join("whisper").join(size).with_extension(extension);
        std::fs::rename(path("tiny"), path("small")).unwrap();
    }
    // An encoder of another size is beside the right one.
    let other = tempfile::tempdir().unwrap();
    synthesize(other.path(), Size::Small, 3).unwrap();
    for extension in ["safetensors", "json"] {
        let name = Path::new("whisper/tiny").with_extension(extension);
        std::fs::copy(other.path().join(&name), dir.path().join(&name)).unwrap();
    }
    load(dir.path());
    std::fs::remove_file(dir.path().join("whisper/small.safetensors")).unwrap();
    let text = Checkpoint::open(dir.path()).unwrap_err().to_string();
    for part in ["whisper/tiny.safetensors", "is 128 wide", "expects 64"] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named_whatever_the_file() {
    let spoil = |tensors: &mut BTreeMap<String, Tensor>, missing: &str, misshaped: &str, unexpected: &str| {
        let tensor = tensors.remove(missing).unwrap();
        tensors.insert(unexpected.to_owned(), tensor);
        let zeros = Tensor::zeros((1, 2, 3), DType::F16, &Device::Cpu).unwrap();
        tensors.insert(misshaped.to_owned(), zeros);
    };
    let cases = [
        (UNET, "conv_in.bias", "conv_out.weight", "conv_inn.bias"),
        (VAE, "quant_conv.bias", "decoder.conv_in.weight", "quant.bias"),
        (
            WHISPER,
            "encoder.conv1.bias",
            "encoder.ln_post.weight",
            "encoder.conv3.bias",
        ),
    ];
    for (part, missing, misshaped, unexpected) in cases {
        for as_pickle in [false, true] {
            let dir = tiny();
            let path = safetensors(dir.path(), part);
            if as_pickle {
                let extension = if part == VAE { "bin" } else { "pt" };
                as_torch(dir.path(), part, extension, Around::Nothing, |tensors| {
                    spoil(tensors, missing, misshaped, unexpected);
                });
            } else {
                let mut tensors = tensors_of(&path);
                spoil(&mut tensors, missing, misshaped, unexpected);
                save(&path, tensors);
            }
            let text = Checkpoint::open(dir.path())
                .unwrap()
                .check_tensors()
                .unwrap_err()
                .to_string();
            for wanted in [
                format!("1 missing: {missing}"),
                format!("1 misshaped: {misshaped} has shape [1, 2, 3], not ["),
                format!("1 unexpected: {unexpected}"),
                part.to_owned(),
            ] {
                assert!(text.contains(&wanted), "`{wanted}` is not in: {text}");
            }
        }
    }
}

#[test]
fn long_list_of_tensors_is_cut_to_some_names_and_a_count() {
    let dir = tiny();
    let path = safetensors(dir.path(), UNET);
    let count = tensors_of(&path).len();
    let strays = (0..200).map(|i| {
        let name = format!("stray.{i:03}.weight");
        (name, Tensor::zeros(1, DType::F16, &Device::Cpu).unwrap())
    });
    save(&path, strays.collect());
    let text = Checkpoint::open(dir.path())
        .unwrap()
        .check_tensors()
        .unwrap_err()
        .to_string();
    assert!(text.contains(&format!("{count} missing: ")), "{text}");
    assert!(
        text.contains(&format!(
            " and {} more; 200 unexpected: stray.000.weight, ",
            count - 12
        )),
        "{text}"
    );
    assert!(text.ends_with("stray.011.weight and 188 more"), "{text}");
    assert!(text.len() < 2500, "{} characters", text.len());
}

/// Returns the names and shapes in an inventory.
fn shapes(value: &Value) -> TensorShapes {
    serde_json::from_value(value.clone()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn values_in(shapes: &TensorShapes) -> u64 {
    shapes
        .values()
        .map(|shape| shape.iter().product::<usize>() as u64)
        .sum()
}

/// Returns the peak of this process's resident memory in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn full_size_networks_request_what_the_golden_inventories_list() {
    for path in files("inventory_", ".json") {
        println!("{}", path.display());
        let inventory: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        if let Some(config) = inventory.get("model_config") {
            let config = UNetConfig::from_json(&config.to_string()).unwrap();
            let ours = unet_tensors(&config).unwrap();
            assert_eq!(ours, shapes(&inventory["tensors"]));
            let listed = number(&inventory["num_parameters"]) + number(&inventory["num_buffer_elements"]);
            assert_eq!(values_in(&ours), listed);
        } else if let Some(config) = inventory.get("config") {
            let config = VaeConfig::from_json(&config.to_string()).unwrap();
            let ours = vae_tensors(&config).unwrap();
            assert_eq!(ours, shapes(&inventory["tensors"]));
            assert_eq!(values_in(&ours), number(&inventory["num_parameters"]));
        } else {
            for (size, entry) in inventory.as_object().unwrap() {
                let dims = WhisperDims::from_json(&entry["dims"].to_string()).unwrap();
                let ours = whisper_tensors(&dims).unwrap();
                assert_eq!(ours, shapes(&entry["encoder_tensors"]), "{size}");
            }
        }
    }
    // Loading the networks would take gigabytes.
    assert!(peak_mib() < 500, "{} MiB", peak_mib());
}

#[test]
fn published_configurations_are_those_of_the_golden_inventories() {
    for path in files("inventory_", ".json") {
        let inventory: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        if let Some(config) = inventory.get("model_config") {
            assert_eq!(
                UNetConfig::from_json(&config.to_string()).unwrap(),
                UNetConfig::from_json(UNetConfig::PUBLISHED).unwrap()
            );
        } else if let Some(config) = inventory.get("config") {
            assert_eq!(
                VaeConfig::from_json(&config.to_string()).unwrap(),
                VaeConfig::from_json(VaeConfig::PUBLISHED).unwrap()
            );
        }
    }
}

/// A sparse file of zeros has the full size but takes no space on the disk.
#[test]
fn full_size_vae_is_recognised_by_older_names_of_the_golden_inventory() {
    for path in files("inventory_", ".json") {
        let inventory: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let Some(older) = inventory.get("legacy_name_of").and_then(Value::as_object) else {
            continue;
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.safetensors");
        let mut start = 0;
        let entries = shapes(&inventory["tensors"]).into_iter().map(|(name, shape)| {
            let name = older
                .get(&name)
                .map_or(name.clone(), |old| old.as_str().unwrap().to_owned());
            let end = start + 4 * shape.iter().product::<usize>();
            let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
            start = end;
            (name, entry)
        });
        let header = Value::Object(entries.collect()).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        std::fs::write(&file, &bytes).unwrap();
        let size = (bytes.len() + start) as u64;
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(size)
            .unwrap();

        let tiny = tiny();
        std::fs::rename(&file, safetensors(tiny.path(), VAE)).unwrap();
        std::fs::remove_file(tiny.path().join("vae/config.json")).unwrap();
        let parameters = Checkpoint::open(tiny.path()).unwrap().check_tensors().unwrap();
        assert_eq!(parameters.vae, number(&inventory["num_parameters"]));
    }
}
