//! Compares the image autoencoder with the reference, block by block, with the names of older and of newer
//! diffusers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use latentsync::checkpoint::load_vae;
use latentsync::config::VaeConfig;
use latentsync::trace::Trace;
use latentsync::vae::{AutoencoderKl, SCALING_FACTOR};
use latentsync::{ExecutionOptions, Run};
use support::{Compared, Golden, Tolerance, assert_close, beside, goldens_dir, names, text};

const TOLERANCE: Tolerance = Tolerance {
    max_abs: 5e-5,
    relative: 1e-5,
};

/// The ends of the names of modules whose output does not exist here, because they are parts of a larger
/// operation.
const INNER: [&str; 7] = [
    ".to_q",
    ".to_k",
    ".to_v",
    ".to_out",
    ".nonlinearity",
    ".conv_act",
    ".dropout",
];

fn load(name: &str, path: &Path) -> AutoencoderKl {
    let config = VaeConfig::from_json(&text(&format!("{name}_config.json"))).unwrap();
    load_vae(
        path,
        &config,
        &Device::Cpu,
        DType::F32,
        ExecutionOptions::default(),
    )
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Compares the outputs of the modules, which the golden file has for the first images only.
fn check_trace(vae: &AutoencoderKl, golden: &Golden, case: &str, compared: &mut Compared) {
    for name in golden.under(&format!("{case}.trace.")) {
        let expected = golden.get(&format!("{case}.trace.{name}"));
        let first = |name: &str| {
            let given = golden.get(&format!("{case}.{name}"));
            given.narrow(0, 0, expected.dim(0).unwrap()).unwrap()
        };
        let trace = Trace::default();
        let is_decoder = name == "post_quant_conv" || name.starts_with("decoder");
        let last = if is_decoder {
            vae.decode(&Run::default().with_trace(&trace), &first("decode_in"))
                .unwrap()
        } else {
            vae.raw_moments(&Run::default().with_trace(&trace), &first("image"))
                .unwrap()
        };
        let plain = if is_decoder {
            vae.decode(&Run::default(), &first("decode_in")).unwrap()
        } else {
            vae.raw_moments(&Run::default(), &first("image")).unwrap()
        };
        let same = support::values(&plain) == support::values(&last);
        assert!(same, "{case}: recording changes the output");
        let records = trace.into_records();
        let find = |name: &str| {
            let mut found = records.iter().filter(|(recorded, _)| recorded == name);
            found.next().map(|(_, output)| output.clone())
        };
        // The output of a module with a single child is that of the child.
        let same = name.strip_suffix(".conv").unwrap_or(&name);
        let ours = match name.as_str() {
            "decoder" | "decoder.conv_out" => Some(last),
            "encoder.conv_out" => find("encoder"),
            name => find(name).or_else(|| find(same)),
        };
        // A norm includes the activation after it.
        let with_silu = find(&format!("{name}.silu"));
        let expected = &match with_silu {
            Some(_) => expected.silu().unwrap(),
            None => expected.clone(),
        };
        let Some(ours) = ours.or(with_silu) else {
            let inner = INNER
                .iter()
                .any(|end| name.ends_with(end) || name.contains(&format!("{end}.")));
            assert!(inner, "{case}: module never recorded: {name}");
            println!("{case} {name}: part of one operation here");
            continue;
        };
        // The norm in an attention has the positions of a picture in one dimension.
        let ours = ours.reshape(expected.shape()).unwrap();
        assert_close(&format!("{case} trace.{name}"), &ours, expected, TOLERANCE);
        compared.add("inner modules");
    }
}

fn check_case(vae: &AutoencoderKl, golden: &Golden, case: &str, compared: &mut Compared) {
    check_trace(vae, golden, case, compared);
    let find = |name: &str| golden.find(&format!("{case}.{name}"));
    let mut close = |name: &'static str, ours: &dyn Fn() -> Tensor| {
        if let Some(expected) = find(name) {
            assert_close(&format!("{case} {name}"), &ours(), expected, TOLERANCE);
            compared.add(name);
        }
    };
    if let Some(image) = find("image") {
        let moments = vae.encode(&Run::default(), image).unwrap();
        close("moments", &|| vae.raw_moments(&Run::default(), image).unwrap());
        close("mean", &|| moments.mean.clone());
        close("logvar", &|| moments.logvar.clone());
        close("std", &|| moments.std().unwrap());
        if let Some(noise) = find("noise") {
            let latents = moments.sample(noise).unwrap();
            close("sample", &|| latents.clone());
            close("scaled_latent", &|| (&latents * SCALING_FACTOR).unwrap());
        }
    }
    let decode = |latents: &Tensor| vae.decode(&Run::default(), latents).unwrap();
    if let Some(latents) = find("decode_in") {
        close("decode_out", &|| decode(latents));
    }
    if let Some(latents) = find("decode_scaled_in") {
        close("decode_scaled_out", &|| {
            decode(&(latents / SCALING_FACTOR).unwrap())
        });
    }
}

/// Returns the names of the autoencoders, each of which has cases in `NAME_io.safetensors`.
fn vaes() -> Vec<String> {
    names("vae", "_io.safetensors")
}

/// Returns all cases of a file, in the order of their numbers.
fn cases(golden: &Golden) -> Vec<String> {
    let cases = golden.prefixes("case");
    assert!(!cases.is_empty(), "no cases in {}", golden.file);
    cases
}

#[test]
fn vae_matches_golden_blocks_and_pictures() {
    let mut compared = Compared::default();
    for name in vaes() {
        let golden = Golden::named(&format!("{name}_io.safetensors"));
        let vae = load(&name, &beside(&name, &["_legacy.safetensors", ".safetensors"]));
        for case in cases(&golden) {
            println!("{name}");
            check_case(&vae, &golden, &case, &mut compared);
        }
    }
    compared.require(&[
        "inner modules",
        "moments",
        "mean",
        "logvar",
        "std",
        "sample",
        "scaled_latent",
        "decode_out",
        "decode_scaled_out",
    ]);
}

/// The names of the attention's layers in older diffusers, which published files have, and in newer ones.
const RENAMED: [[&str; 2]; 4] = [
    [".query.", ".to_q."],
    [".key.", ".to_k."],
    [".value.", ".to_v."],
    [".proj_attn.", ".to_out.0."],
];

#[test]
fn both_sets_of_names_give_the_same_golden_bits() {
    for name in vaes() {
        let given = beside(&name, &["_legacy.safetensors", ".safetensors"]);
        let tensors = candle_core::safetensors::load(&given, &Device::Cpu).unwrap();
        let is_legacy = tensors.keys().any(|key| key.contains(".proj_attn."));
        let twin = tensors.into_iter().map(|(key, tensor)| {
            let renamed = RENAMED.iter().fold(key, |key, [legacy, modern]| {
                if is_legacy {
                    key.replace(legacy, modern)
                } else {
                    key.replace(modern, legacy)
                }
            });
            (renamed, tensor)
        });
        let file = tempfile::Builder::new()
            .suffix(".safetensors")
            .tempfile()
            .unwrap();
        candle_core::safetensors::save(&twin.collect(), file.path()).unwrap();

        let golden = Golden::named(&format!("{name}_io.safetensors"));
        let run = |path: &Path| {
            let vae = load(&name, path);
            let mut bits = Vec::new();
            for case in cases(&golden) {
                if let Some(image) = golden.find(&format!("{case}.image")) {
                    bits.extend(support::values(&vae.raw_moments(&Run::default(), image).unwrap()));
                }
                if let Some(latents) = golden.find(&format!("{case}.decode_in")) {
                    bits.extend(support::values(&vae.decode(&Run::default(), latents).unwrap()));
                }
            }
            bits
        };
        let expected = run(&given);
        assert!(!expected.is_empty(), "{name} has no pictures");
        assert!(run(file.path()) == expected, "{name} renamed");
        let modern = goldens_dir().join(format!("{name}.safetensors"));
        if modern.is_file() {
            assert!(run(&modern) == expected, "{}", modern.display());
        }
    }
}
