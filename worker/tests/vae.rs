//! The image autoencoder against the reference, block by block, with either set of names.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use candle_core::{DType, Device};
use latentfarm_worker::latentsync::config::VaeConfig;
use latentfarm_worker::latentsync::trace::Trace;
use latentfarm_worker::latentsync::vae::{AutoencoderKl, SCALING_FACTOR};
use latentfarm_worker::latentsync::weights::load_vae;
use support::{Golden, Tolerance, assert_close, goldens_dir, text};

const TOLERANCE: Tolerance = Tolerance {
    max_abs: 5e-5,
    relative: 1e-5,
};

fn load(file: &str) -> AutoencoderKl {
    let config = VaeConfig::from_json(&text("vae_config.json")).unwrap();
    load_vae(&goldens_dir().join(file), &config, &Device::Cpu, DType::F32)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn check_case(vae: &AutoencoderKl, golden: &Golden, case: &str) {
    let get = |name: &str| golden.get(&format!("{case}.{name}"));
    let close = |name: &str, ours: &candle_core::Tensor| {
        assert_close(&format!("{case} {name}"), ours, get(name), TOLERANCE)
    };

    let mut wanted = golden.under(&format!("{case}.trace."));
    if !wanted.is_empty() {
        let trace = Trace::recording();
        vae.raw_moments(&get("image").narrow(0, 0, 1).unwrap(), &trace)
            .unwrap();
        vae.decode(&get("decode_in").narrow(0, 0, 1).unwrap(), &trace)
            .unwrap();
        for (name, ours) in trace.into_records() {
            if wanted.remove(&name) {
                close(&format!("trace.{name}"), &ours);
            }
        }
        assert!(wanted.is_empty(), "modules never recorded: {wanted:?}");
    }

    close("moments", &vae.raw_moments(get("image"), &Trace::off()).unwrap());
    let moments = vae.encode(get("image")).unwrap();
    close("mean", &moments.mean);
    close("logvar", &moments.log_variance);
    close("std", &moments.deviation().unwrap());
    let latents = moments.sample(get("noise")).unwrap();
    close("sample", &latents);
    close("scaled_latent", &(&latents * SCALING_FACTOR).unwrap());
    close(
        "decode_out",
        &vae.decode(get("decode_in"), &Trace::off()).unwrap(),
    );
    let unscaled = (get("decode_scaled_in") / SCALING_FACTOR).unwrap();
    close(
        "decode_scaled_out",
        &vae.decode(&unscaled, &Trace::off()).unwrap(),
    );
}

#[test]
fn vae_matches_golden_blocks_and_pictures() {
    let golden = Golden::named("vae_io.safetensors");
    let vae = load("vae_legacy.safetensors");
    for case in golden.prefixes("case") {
        check_case(&vae, &golden, &case);
    }
}

#[test]
fn newer_attention_names_give_the_same_golden_bits() {
    let golden = Golden::named("vae_io.safetensors");
    let legacy = candle_core::safetensors::load(goldens_dir().join("vae_legacy.safetensors"), &Device::Cpu);
    let renamed = legacy.unwrap().into_iter().map(|(name, tensor)| {
        let name = name
            .replace(".query.", ".to_q.")
            .replace(".key.", ".to_k.")
            .replace(".value.", ".to_v.")
            .replace(".proj_attn.", ".to_out.0.");
        (name, tensor)
    });
    let file = tempfile::Builder::new()
        .suffix(".safetensors")
        .tempfile()
        .unwrap();
    candle_core::safetensors::save(&renamed.collect(), file.path()).unwrap();

    let config = VaeConfig::from_json(&text("vae_config.json")).unwrap();
    let modern = load_vae(file.path(), &config, &Device::Cpu, DType::F32).unwrap();
    let image = golden.get("case0.image");
    let run = |vae: &AutoencoderKl| support::values(&vae.raw_moments(image, &Trace::off()).unwrap());
    assert!(run(&modern) == run(&load("vae_legacy.safetensors")));
    let given = goldens_dir().join("vae.safetensors");
    if given.is_file() {
        assert!(run(&load("vae.safetensors")) == run(&modern));
    }
}
