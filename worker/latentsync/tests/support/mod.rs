//! Reads golden tensors, which are outputs of the reference for small random weights; see
//! `goldens/README.md`.
//!
//! Tests find cases by file name, and take sizes, lengths, steps and guidance from the files, so that they
//! run on any folder of the same kind.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses another part of this"
)]

pub mod speech;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

/// Returns the folder of the golden files: `LATENTFARM_GOLDENS`, or the project's own copy.
pub fn goldens_dir() -> PathBuf {
    std::env::var_os("LATENTFARM_GOLDENS").map_or_else(own_copy, PathBuf::from)
}

/// Returns the project's copy, which is in the folder of this crate; tests of the crates that depend on it
/// read it too.
fn own_copy() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut copies = crates.map(|dir| dir.join("latentsync/tests/goldens"));
    copies
        .find(|dir| dir.is_dir())
        .expect("the golden files lie in latentsync/tests/goldens")
}

/// Returns the files in the folder whose names begin with `start` and end with `end`, sorted; there may be
/// none.
pub fn any_files(start: &str, end: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(goldens_dir())
        .unwrap_or_else(|error| panic!("{}: {error}", goldens_dir().display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = file_name(path);
            name.starts_with(start) && name.ends_with(end)
        })
        .collect();
    found.sort();
    found
}

/// Returns the same files as [`any_files`], and panics if there are none.
pub fn files(start: &str, end: &str) -> Vec<PathBuf> {
    let found = any_files(start, end);
    assert!(
        !found.is_empty(),
        "no {start}*{end} in {}",
        goldens_dir().display()
    );
    found
}

/// Returns the same files as [`any_files`], and panics if the project's own copy has none; another folder may
/// leave them out.
pub fn optional_files(start: &str, end: &str) -> Vec<PathBuf> {
    if goldens_dir() == own_copy() {
        files(start, end)
    } else {
        any_files(start, end)
    }
}

/// Returns the names of [`files`] without `end`.
pub fn names(start: &str, end: &str) -> Vec<String> {
    files(start, end)
        .iter()
        .map(|path| file_name(path).strip_suffix(end).unwrap().to_owned())
        .collect()
}

pub fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Returns the first of the files `NAME` + ending that exists.
pub fn beside(name: &str, endings: &[&str]) -> PathBuf {
    endings
        .iter()
        .map(|ending| goldens_dir().join(format!("{name}{ending}")))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("no {name}{endings:?} in {}", goldens_dir().display()))
}

/// Returns the text of a file in the folder.
pub fn text(name: &str) -> String {
    let path = goldens_dir().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Counts comparisons by kind, so that a test cannot pass by finding nothing to compare.
#[derive(Default)]
pub struct Compared(BTreeMap<&'static str, usize>);

impl Compared {
    pub fn add(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// Panics if one of the kinds was never compared.
    pub fn require(&self, kinds: &[&'static str]) {
        println!("compared {:?}", self.0);
        let missing: Vec<_> = kinds.iter().filter(|&kind| !self.0.contains_key(kind)).collect();
        assert!(
            missing.is_empty(),
            "nothing in {} to compare these with: {missing:?}",
            goldens_dir().display()
        );
    }
}

/// One file of golden tensors.
pub struct Golden {
    pub file: String,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub fn open(path: &Path) -> Self {
        Self {
            file: file_name(path).to_owned(),
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

    /// Returns the parts before the first `.` of the names that begin with `start`, each once, in the order
    /// of their numbers.
    pub fn prefixes(&self, start: &str) -> Vec<String> {
        let found: BTreeSet<(usize, String)> = self
            .tensors
            .keys()
            .filter(|name| name.starts_with(start))
            .filter_map(|name| Some(name.split_once('.')?.0))
            .map(|prefix| (number_after(start, prefix), prefix.to_owned()))
            .collect();
        found.into_iter().map(|(_, prefix)| prefix).collect()
    }

    /// Returns the names that end with `end`, without it.
    pub fn before(&self, end: &str) -> BTreeSet<String> {
        self.tensors
            .keys()
            .filter_map(|name| name.strip_suffix(end))
            .map(str::to_owned)
            .collect()
    }

    /// Returns the names that begin with `start`, without it.
    pub fn under(&self, start: &str) -> BTreeSet<String> {
        self.tensors
            .keys()
            .filter_map(|name| name.strip_prefix(start))
            .map(str::to_owned)
            .collect()
    }

    pub fn integers(&self, name: &str) -> Vec<i64> {
        let tensor = self.get(name).to_dtype(DType::I64).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.get(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        values(self.get(name))
    }
}

/// Returns the number that follows `start` in a name, or 0 if none does.
pub fn number_after(start: &str, name: &str) -> usize {
    let rest = name.strip_prefix(start).unwrap_or_default();
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The largest distance that a result may have from its golden tensor.
#[derive(Clone, Copy)]
pub struct Tolerance {
    /// The largest absolute difference of a value.
    pub max_abs: f64,
    /// The largest `norm(result - golden) / norm(golden)`.
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

/// Panics if `result` is too far from `golden`, else returns the relative distance.
pub fn assert_close(what: &str, result: &Tensor, golden: &Tensor, tolerance: Tolerance) -> f64 {
    assert_eq!(result.dims(), golden.dims(), "shape of {what}");
    assert_values_close(what, &values(result), &values(golden), tolerance)
}

/// Does the same as [`assert_close`] for plain numbers.
pub fn assert_values_close(what: &str, result: &[f32], golden: &[f32], tolerance: Tolerance) -> f64 {
    assert_eq!(result.len(), golden.len(), "length of {what}");
    assert!(!golden.is_empty(), "{what} is empty");
    let (mut max_abs, mut error, mut norm) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (&a, &b) in result.iter().zip(golden) {
        let (a, b) = (f64::from(a), f64::from(b));
        assert!(a.is_finite(), "{what} is not finite");
        max_abs = max_abs.max((a - b).abs());
        error += (a - b) * (a - b);
        norm += b * b;
    }
    let relative = if error == 0.0 {
        0.0
    } else {
        (error / norm.max(f64::MIN_POSITIVE)).sqrt()
    };
    println!("{what}: relative {relative:.1e}, largest {max_abs:.1e}");
    assert!(
        max_abs <= tolerance.max_abs && relative <= tolerance.relative,
        "{what} is off: relative {relative:.3e} (limit {:.0e}), largest {max_abs:.3e} (limit {:.0e})",
        tolerance.relative,
        tolerance.max_abs
    );
    relative
}

/// Panics if more than `share` of the bytes differ, or if one differs by more than one level.
pub fn assert_bytes_close(what: &str, result: &[u8], golden: &[u8], share: f64) {
    assert_bytes_close_but(what, result, golden, share, |_| false);
}

/// Does the same as [`assert_bytes_close`] without the bytes whose positions are left out.
pub fn assert_bytes_close_but(
    what: &str,
    result: &[u8],
    golden: &[u8],
    share: f64,
    left_out: impl Fn(usize) -> bool,
) {
    assert_eq!(result.len(), golden.len(), "length of {what}");
    let levels = result.iter().zip(golden).map(|(a, b)| a.abs_diff(*b));
    let counted: Vec<u8> = levels
        .enumerate()
        .filter(|(at, level)| *level == 0 || !left_out(*at))
        .map(|(_, level)| level)
        .collect();
    let worst = counted.iter().copied().max().unwrap_or(0);
    let differing = counted.iter().filter(|&&level| level > 0).count();
    let measured = differing as f64 / golden.len() as f64;
    let ignored = golden.len() - counted.len();
    println!(
        "{what}: {:.4} % of the bytes differ, by at most {worst}; {ignored} left out",
        100.0 * measured
    );
    assert!(
        worst <= 1 && measured <= share,
        "{what}: {:.3} % of the bytes differ (limit {:.3} %), by up to {worst} levels",
        100.0 * measured,
        100.0 * share
    );
}

/// Transposes `(images, 3, h, w)` bytes to `(images, h, w, 3)`, as golden pictures have them.
pub fn interleaved(planar: &[u8], side: usize) -> Vec<u8> {
    let area = side * side;
    planar
        .chunks(3 * area)
        .flat_map(|face| (0..area).flat_map(|i| [face[i], face[area + i], face[2 * area + i]]))
        .collect()
}
