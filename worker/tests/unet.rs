//! The UNet against the reference, block by block.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use candle_core::{DType, Device, Tensor};
use latentfarm_worker::latentsync::config::UNetConfig;
use latentfarm_worker::latentsync::trace::Trace;
use latentfarm_worker::latentsync::unet::UNet3DConditionModel;
use latentfarm_worker::latentsync::weights::{list_tensors, load_unet, read_tensor};
use support::{Golden, Tolerance, assert_close, files, goldens_dir, text};

const TOLERANCE: Tolerance = Tolerance {
    max_abs: 1e-4,
    relative: 1e-5,
};

/// Names of the networks in the folder.
fn names() -> Vec<String> {
    files("unet_", "_io.safetensors")
        .iter()
        .map(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .replace("_io.safetensors", "")
        })
        .collect()
}

fn load(name: &str, extension: &str) -> UNet3DConditionModel {
    let config = UNetConfig::from_json(&text(&format!("{name}_config.json"))).unwrap();
    let path = goldens_dir().join(format!("{name}.{extension}"));
    load_unet(&path, &config, &Device::Cpu, DType::F32).unwrap_or_else(|error| panic!("{error}"))
}

/// Ours has frames in the batch, `(batch x frames, c, h, w)`; the golden tensors are `(batch, c, frames, h, w)`.
fn like(ours: &Tensor, golden: &Tensor) -> Tensor {
    match golden.dims() {
        [batch, _, frames, _, _] => {
            let (_, c, h, w) = ours.dims4().unwrap();
            ours.reshape((*batch, *frames, c, h, w))
                .unwrap()
                .permute((0, 2, 1, 3, 4))
                .unwrap()
        }
        _ => ours.clone(),
    }
}

fn check_case(unet: &UNet3DConditionModel, golden: &Golden, case: &str) {
    let get = |name: &str| golden.get(&format!("{case}.{name}"));
    let timestep = u32::try_from(golden.integers(&format!("{case}.timestep"))[0]).unwrap();
    let mut wanted = golden.under(&format!("{case}.trace."));
    let trace = if wanted.is_empty() {
        Trace::off()
    } else {
        Trace::recording()
    };
    let out = unet
        .forward(get("sample"), timestep, get("audio"), &trace)
        .unwrap();
    let mut worst = 0.0_f64;
    for (name, ours) in trace.into_records() {
        if wanted.remove(&name) {
            let expected = get(&format!("trace.{name}"));
            let what = format!("{case} {name}");
            worst = worst.max(assert_close(&what, &like(&ours, expected), expected, TOLERANCE));
        }
    }
    assert!(wanted.is_empty(), "modules never recorded: {wanted:?}");
    println!("{case}: worst block {worst:.1e}");
    assert_close(&format!("{case} out"), &out, get("out"), TOLERANCE);
}

#[test]
fn unet_matches_golden_blocks_and_outputs() {
    for name in names() {
        let unet = load(&name, "safetensors");
        let golden = Golden::named(&format!("{name}_io.safetensors"));
        for case in golden.prefixes("case") {
            println!("{name}");
            check_case(&unet, &golden, &case);
        }
    }
}

/// `NAME.pt` is a whole checkpoint; `NAME_head.pt` has its table of contents, but few of its tensors' data.
#[test]
fn torch_checkpoint_reads_like_golden_safetensors() {
    for path in files("unet_", ".pt") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (name, whole) = name
            .strip_suffix("_head")
            .map_or((name, true), |name| (name, false));
        let twin = goldens_dir().join(format!("{name}.safetensors"));
        let listed = list_tensors(&path).unwrap();
        assert_eq!(listed, list_tensors(&twin).unwrap(), "{name}");
        let mut compared = 0;
        for (tensor, _) in &listed {
            match read_tensor(&path, tensor) {
                Ok(read) => {
                    let expected = read_tensor(&twin, tensor).unwrap();
                    assert!(support::values(&read) == support::values(&expected), "{tensor}");
                    compared += 1;
                }
                Err(error) => assert!(!whole, "{tensor}: {error}"),
            }
        }
        assert!(compared >= 5, "only {compared} tensors of {name} have data");
        if whole {
            check_same_output(name);
        }
    }
}

fn check_same_output(name: &str) {
    let golden = Golden::named(&format!("{name}_io.safetensors"));
    let run = |extension| {
        let (latents, audio) = (golden.get("case0.sample"), golden.get("case0.audio"));
        let out = load(name, extension)
            .forward(latents, 500, audio, &Trace::off())
            .unwrap();
        support::values(&out)
    };
    assert!(run("pt") == run("safetensors"), "{name}");
}
