//! Compares the UNet with the reference, block by block.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use latentsync::checkpoint::load_unet;
use latentsync::config::UNetConfig;
use latentsync::tensors::{list_tensors, read_tensor};
use latentsync::trace::Trace;
use latentsync::unet::UNet3DConditionModel;
use latentsync::{ExecutionOptions, Run};
use support::{
    Compared, Golden, Tolerance, assert_close, beside, file_name, goldens_dir, names, optional_files, text,
};

const TOLERANCE: Tolerance = Tolerance {
    max_abs: 1e-4,
    relative: 1e-5,
};

/// The ends of the names of modules whose output does not exist here, because they are parts of a larger
/// operation.
const INNER: [&str; 13] = [
    ".to_q",
    ".to_k",
    ".to_v",
    ".to_out",
    ".linear_1",
    ".linear_2",
    ".pos_encoder",
    ".nonlinearity",
    ".act",
    ".conv_act",
    ".dropout",
    // The feed-forward runs in slices, so that no tensor holds the values between its two layers.
    ".net.0",
    ".net.1",
];

fn load(name: &str, weights: &Path) -> UNet3DConditionModel {
    let config = UNetConfig::from_json(&text(&format!("{name}_config.json"))).unwrap();
    load_unet(
        weights,
        &config,
        &Device::Cpu,
        DType::F32,
        ExecutionOptions::default(),
    )
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Brings one of our tensors into the shape of the golden one. Ours are `(batch x frames, c, h, w)`, with one
/// row for a timestep that the whole batch shares; golden tensors are `(batch, c, frames, h, w)`, with one
/// row for each sample.
fn like(ours: &Tensor, golden: &Tensor) -> Tensor {
    match golden.dims() {
        [batch, _, frames, _, _] => {
            let (_, c, h, w) = ours.dims4().unwrap();
            ours.reshape((*batch, *frames, c, h, w))
                .unwrap()
                .permute((0, 2, 1, 3, 4))
                .unwrap()
        }
        [batch, _] if ours.dim(0).unwrap() == 1 => ours.repeat((*batch, 1)).unwrap(),
        _ => ours.clone(),
    }
}

/// Returns the output, and those of the modules if `traced`. Our batch has one timestep; if the golden one
/// has several, its samples run one by one.
fn run(
    unet: &UNet3DConditionModel,
    golden: &Golden,
    case: &str,
    traced: bool,
) -> (Tensor, BTreeMap<String, Tensor>) {
    let get = |name: &str| golden.get(&format!("{case}.{name}"));
    let (sample, audio) = (get("sample"), get("audio"));
    let mut timesteps = golden.integers(&format!("{case}.timestep"));
    timesteps.dedup();
    let each = if timesteps.len() == 1 {
        sample.dim(0).unwrap()
    } else {
        1
    };
    let (mut outs, mut records) = (Vec::new(), BTreeMap::<String, Vec<Tensor>>::new());
    for (at, &timestep) in golden
        .integers(&format!("{case}.timestep"))
        .iter()
        .enumerate()
        .take(sample.dim(0).unwrap() / each)
    {
        let trace = Trace::default();
        let plain = Run::default();
        let context = if traced { plain.with_trace(&trace) } else { plain };
        let part = |tensor: &Tensor| tensor.narrow(0, at * each, each).unwrap();
        let timestep = u32::try_from(timestep).unwrap();
        outs.push(
            unet.forward(&context, &part(sample), timestep, &part(audio))
                .unwrap(),
        );
        for (name, output) in trace.into_records() {
            records.entry(name).or_default().push(output);
        }
    }
    let join = |parts: &[Tensor]| Tensor::cat(parts, 0).unwrap();
    let records = records
        .into_iter()
        .map(|(name, parts)| (name, join(&parts)))
        .collect();
    (join(&outs), records)
}

fn check_case(unet: &UNet3DConditionModel, golden: &Golden, case: &str, compared: &mut Compared) {
    let wanted = golden.under(&format!("{case}.trace."));
    let (out, records) = run(unet, golden, case, !wanted.is_empty());
    if !wanted.is_empty() {
        let (plain, _) = run(unet, golden, case, false);
        let same = support::values(&plain) == support::values(&out);
        assert!(same, "{case}: recording changes the output");
    }
    let mut worst = 0.0_f64;
    for name in &wanted {
        let expected = golden.get(&format!("{case}.trace.{name}"));
        // The output of an upsampler is that of its convolution.
        let same = name.strip_suffix(".conv").unwrap_or(name);
        // The output of a feed-forward is that of its last layer.
        let same = same.strip_suffix(".net.2").unwrap_or(same);
        let ours = if name == "conv_out" {
            out.clone()
        } else if let Some(ours) = records.get(&format!("{name}.silu")) {
            // The norm includes the activation after it.
            let (ours, expected) = (like(ours, expected), expected.silu().unwrap());
            let what = format!("{case} {name} with SiLU");
            worst = worst.max(assert_close(&what, &ours, &expected, TOLERANCE));
            compared.add("inner modules");
            continue;
        } else if let Some(ours) = records.get(name).or_else(|| records.get(same)) {
            like(ours, expected)
        } else {
            let inner = INNER
                .iter()
                .any(|end| name.ends_with(end) || name.contains(&format!("{end}.")));
            assert!(inner, "{case}: module never recorded: {name}");
            println!("{case} {name}: part of one operation here");
            continue;
        };
        worst = worst.max(assert_close(
            &format!("{case} {name}"),
            &ours,
            expected,
            TOLERANCE,
        ));
        compared.add("inner modules");
    }
    println!("{case}: worst block {worst:.1e}");
    let expected = golden.get(&format!("{case}.out"));
    assert_close(&format!("{case} out"), &out, expected, TOLERANCE);
    compared.add("outputs");
}

#[test]
fn unet_matches_golden_blocks_and_outputs() {
    let mut compared = Compared::default();
    for name in names("unet_", "_io.safetensors") {
        let unet = load(&name, &beside(&name, &[".safetensors", ".pt"]));
        let golden = Golden::named(&format!("{name}_io.safetensors"));
        for case in golden.before(".sample") {
            println!("{name}");
            check_case(&unet, &golden, &case, &mut compared);
        }
    }
    compared.require(&["outputs", "inner modules"]);
}

/// `NAME.pt` is a whole checkpoint; `NAME_head.pt` is its first part, with the table of contents and the data
/// of a few tensors.
#[test]
fn torch_checkpoint_reads_like_golden_safetensors() {
    for path in optional_files("unet_", ".pt") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (name, whole) = name
            .strip_suffix("_head")
            .map_or((name, true), |name| (name, false));
        let twin = goldens_dir().join(format!("{name}.safetensors"));
        if !twin.is_file() {
            println!("{} stands alone", file_name(&path));
            continue;
        }
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
        assert!(compared > 0, "no tensor of {name} has data");
        if whole {
            let golden = Golden::named(&format!("{name}_io.safetensors"));
            let case = golden.before(".sample").pop_first().unwrap();
            let output = |path: &Path| support::values(&run(&load(name, path), &golden, &case, false).0);
            assert!(output(&path) == output(&twin), "{name}");
        }
    }
}
