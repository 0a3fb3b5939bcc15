//! Compares masks and pixels with the reference.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use latentsync::mask;
use latentsync::preprocess::{self, FaceMask};
use serde_json::Value;
use support::{Compared, Golden, Tolerance, assert_bytes_close, assert_close, files, goldens_dir, text};

const EXACT: Tolerance = Tolerance {
    max_abs: 1e-6,
    relative: 1e-6,
};

fn goldens() -> Vec<Golden> {
    let found = files("preprocess", ".safetensors").into_iter();
    found.map(|path| Golden::open(&path)).collect()
}

#[test]
fn masks_match_golden() {
    let mut compared = Compared::default();
    for golden in goldens() {
        if golden.find("mask_native_u8").is_some() {
            assert_eq!(mask::native(), golden.bytes("mask_native_u8"));
            compared.add("native");
        }
        for name in golden.under("mask_") {
            let side = |text: Option<&str>| text.and_then(|text| text.parse::<usize>().ok());
            let what = format!("mask_{name}");
            if let Some(side) = side(name.strip_suffix("_u8")) {
                assert_bytes_close(&what, &mask::resized(side), &golden.bytes(&what), 0.01);
                compared.add("resized");
            } else if let Some(side) = side(name.strip_prefix("latent_")) {
                let ours = FaceMask::new(side).unwrap().latents;
                let expected = golden.get(&what);
                let ours = ours.reshape(expected.shape()).unwrap();
                assert_close(&what, &ours, expected, EXACT);
                compared.add("latent size");
            }
        }
    }
    compared.require(&["native", "resized", "latent size"]);
}

/// `mask_geometry.json` describes the mask by its rows and columns.
#[test]
fn mask_is_drawn_as_golden_geometry_says() {
    for path in support::optional_files("mask_geometry", ".json") {
        let geometry: Value = serde_json::from_str(&text(support::file_name(&path))).unwrap();
        let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        let (height, width) = (number(&geometry["height"]), number(&geometry["width"]));
        let background = u8::try_from(number(&geometry["background_value"])).unwrap();
        let mut expected = vec![background; height * width];
        for run in geometry["zero_runs"].as_array().unwrap() {
            for row in number(&run["rows"][0])..number(&run["rows"][1]) {
                for columns in run["columns"].as_array().unwrap() {
                    expected[row * width + number(&columns[0])..row * width + number(&columns[1])].fill(0);
                }
            }
        }
        assert!(
            mask::native() == expected,
            "{} in {}",
            path.display(),
            goldens_dir().display()
        );
    }
}

#[test]
fn pixel_values_and_pasting_match_golden() {
    let mut compared = Compared::default();
    for golden in goldens() {
        for set in golden.before(".faces_u8") {
            let find = |name: &str| golden.find(&format!("{set}.{name}"));
            let faces = find("faces_u8").unwrap();
            let side = faces.dim(3).unwrap();
            let pixels = preprocess::pixels(&golden.bytes(&format!("{set}.faces_u8")), side).unwrap();
            if let Some(expected) = find("pixel_values") {
                assert_close(&format!("{set} pixels"), &pixels, expected, EXACT);
                compared.add("pixels");
            }
            let mask = FaceMask::new(side).unwrap().pixels;
            if let Some(expected) = find("masks") {
                let ours = mask.broadcast_as(expected.shape()).unwrap();
                assert_close(&format!("{set} masks"), &ours, expected, EXACT);
                compared.add("masks");
            }
            if let Some(expected) = find("masked_pixel_values") {
                let masked = preprocess::without_mouth(&pixels, &mask).unwrap();
                assert_close(&format!("{set} masked"), &masked, expected, EXACT);
                compared.add("masked pixels");
            }
            let Some(decoded) = find("decoded") else { continue };
            let pasted = preprocess::paste(decoded, &pixels, &mask).unwrap();
            if let Some(expected) = find("pasted") {
                assert_close(&format!("{set} pasted"), &pasted, expected, EXACT);
                compared.add("pasted");
            }
            if find("images_u8").is_some() {
                let bytes = support::interleaved(&preprocess::bytes(&pasted).unwrap(), side);
                let expected = golden.bytes(&format!("{set}.images_u8"));
                assert_bytes_close(&format!("{set} bytes"), &bytes, &expected, 0.005);
                compared.add("bytes");
            }
        }
    }
    compared.require(&["pixels", "masks", "masked pixels", "pasted", "bytes"]);
}
