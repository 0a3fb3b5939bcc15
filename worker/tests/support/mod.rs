//! Golden tensors: outputs of the reference for small random weights. See `goldens/README.md`.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses another part of this"
)]

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

/// Where the golden files are: `LATENTFARM_GOLDENS`, or the project's own copy.
pub fn goldens_dir() -> PathBuf {
    std::env::var_os("LATENTFARM_GOLDENS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"),
        PathBuf::from,
    )
}

/// The files in the folder whose names start and end so; at least one, sorted.
pub fn files(start: &str, end: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(goldens_dir())
        .unwrap_or_else(|error| panic!("{}: {error}", goldens_dir().display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(start) && name.ends_with(end)
        })
        .collect();
    found.sort();
    assert!(
        !found.is_empty(),
        "no {start}*{end} in {}",
        goldens_dir().display()
    );
    found
}

/// The text of a file in the folder.
pub fn text(name: &str) -> String {
    let path = goldens_dir().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One file of golden tensors.
pub struct Golden {
    file: String,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub fn open(path: &Path) -> Self {
        Self {
            file: path.file_name().unwrap().to_str().unwrap().to_owned(),
            tensors: candle_core::safetensors::load(path, &Device::Cpu)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        }
    }

    pub fn named(name: &str) -> Self {
        Self::open(&goldens_dir().join(name))
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.find(name)
            .unwrap_or_else(|| panic!("no `{name}` in {}", self.file))
    }

    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The parts before `.` of the names that start with `start`, each once; at least one.
    pub fn prefixes(&self, start: &str) -> BTreeSet<String> {
        let found: BTreeSet<String> = self
            .tensors
            .keys()
            .filter(|name| name.starts_with(start))
            .filter_map(|name| Some(name.split_once('.')?.0.to_owned()))
            .collect();
        assert!(!found.is_empty(), "no `{start}*.` in {}", self.file);
        found
    }

    /// Names with the given start, without it.
    pub fn under(&self, start: &str) -> BTreeSet<String> {
        self.tensors
            .keys()
            .filter_map(|name| name.strip_prefix(start))
            .map(str::to_owned)
            .collect()
    }

    pub fn integers(&self, name: &str) -> Vec<i64> {
        self.get(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.get(name).flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// How far a result may be from its golden tensor.
#[derive(Clone, Copy)]
pub struct Tolerance {
    /// Largest absolute difference.
    pub max_abs: f64,
    /// `norm(result - golden) / norm(golden)`.
    pub relative: f64,
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Panics where `result` is too far from `golden`, else gives the relative distance.
pub fn assert_close(what: &str, result: &Tensor, golden: &Tensor, tolerance: Tolerance) -> f64 {
    assert_eq!(result.dims(), golden.dims(), "shape of {what}");
    let (mut max_abs, mut error, mut norm) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (a, b) in values(result).into_iter().zip(values(golden)) {
        let (a, b) = (f64::from(a), f64::from(b));
        assert!(a.is_finite(), "{what} is not finite");
        max_abs = max_abs.max((a - b).abs());
        error += (a - b) * (a - b);
        norm += b * b;
    }
    let relative = (error / norm.max(f64::MIN_POSITIVE)).sqrt();
    println!("{what}: relative {relative:.1e}, largest {max_abs:.1e}");
    assert!(
        max_abs <= tolerance.max_abs && relative <= tolerance.relative,
        "{what} is off: relative {relative:.3e} (limit {:.0e}), largest {max_abs:.3e} (limit {:.0e})",
        tolerance.relative,
        tolerance.max_abs
    );
    relative
}

/// Panics where more than `share` of the bytes differ, or any by more than one level.
pub fn assert_bytes_close(what: &str, result: &[u8], golden: &[u8], share: f64) {
    assert_eq!(result.len(), golden.len(), "length of {what}");
    let differing: Vec<u8> = result
        .iter()
        .zip(golden)
        .map(|(a, b)| a.abs_diff(*b))
        .filter(|&level| level > 0)
        .collect();
    let worst = differing.iter().copied().max().unwrap_or(0);
    let measured = differing.len() as f64 / golden.len() as f64;
    println!(
        "{what}: {:.4} % of the bytes differ, by at most {worst}",
        100.0 * measured
    );
    assert!(
        worst <= 1 && measured <= share,
        "{what}: {:.3} % of the bytes differ (limit {:.3} %), by up to {worst} levels",
        100.0 * measured,
        100.0 * share
    );
}
