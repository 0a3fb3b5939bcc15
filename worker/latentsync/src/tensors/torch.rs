//! A file as `torch.save` writes it: a zip archive without compression, which holds a pickle and the values
//! of each tensor.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use candle_core::{DType, Device, Layout, Result, Shape, Tensor, bail};
use half::vec::HalfBitsVecExt as _;
use half::{bf16, f16};
use zip::ZipArchive;

use super::pickle::{self, Object, Value};

/// No pickle of tensors' names is longer than this; those of the published models have less than a MiB.
const PICKLE_BYTES: u64 = 64 << 20;
/// The keys of the dictionaries in which published files keep their tensors; others have them at the top.
const STATE_KEYS: [&str; 2] = ["state_dict", "model_state_dict"];

/// An open file. Its archive is opened again for each tensor.
pub(super) struct TorchFile {
    path: PathBuf,
    bytes: u64,
    tensors: BTreeMap<String, TorchTensor>,
    dims: BTreeMap<String, usize>,
}

/// The place of one tensor.
struct TorchTensor {
    dtype: DType,
    /// The axes, whose strides are counted in values.
    layout: Layout,
    /// The values before the first one of the tensor in its part of the archive.
    offset: usize,
    /// The name of that part.
    part: String,
}

impl TorchFile {
    /// Reads the names of the tensors.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut archive = archive(path)?;
        let Some(name) = archive.file_names().find_map(|name| {
            let name = name.ok()?;
            name.ends_with("data.pkl").then(|| name.into_owned())
        }) else {
            bail!("the archive has no data.pkl: torch.save of PyTorch 1.6 or later writes one");
        };
        let mut bytes = Vec::new();
        archive
            .by_name(&name)
            .map_err(candle_core::Error::wrap)?
            .take(PICKLE_BYTES)
            .read_to_end(&mut bytes)?;
        let top = pickle::read(&bytes)?;
        let folder = name.trim_end_matches(".pkl");
        let mut found = None;
        for state in STATE_KEYS.iter().filter_map(|key| top.entry(key)).chain([&*top]) {
            let tensors = tensors(state, folder)?;
            if !tensors.is_empty() {
                found = Some(tensors);
                break;
            }
        }
        Ok(Self {
            path: path.to_owned(),
            bytes: std::fs::metadata(path)?.len(),
            tensors: found.unwrap_or_default(),
            dims: top.entry("dims").map(sizes).unwrap_or_default(),
        })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.layout.dims())
    }

    /// Returns a number from the dictionary `dims`, which Whisper's files have.
    pub(super) fn dim(&self, name: &str) -> Option<usize> {
        self.dims.get(name).copied()
    }

    /// Reads a tensor in its stored type, onto the host.
    pub(super) fn load(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(tensor) = self.tensors.get(name) else {
            return Ok(None);
        };
        let reversed = !tensor.layout.is_contiguous();
        if reversed && !tensor.layout.is_fortran_contiguous() {
            bail!("{name} is not contiguous: {:?}", tensor.layout);
        }
        let width = tensor.dtype.size_in_bytes() as u64;
        let dims = tensor.layout.dims();
        let count = dims
            .iter()
            .try_fold(1_u64, |count, &dim| count.checked_mul(dim as u64));
        let end = count.and_then(|count| count.checked_add(tensor.offset as u64)?.checked_mul(width));
        let (Some(count), true) = (count, end.is_some_and(|end| end <= self.bytes)) else {
            bail!("{name} has the shape {dims:?}, which is longer than the file");
        };
        let mut archive = archive(&self.path)?;
        let mut part = archive.by_name(&tensor.part).map_err(candle_core::Error::wrap)?;
        std::io::copy(
            &mut part.by_ref().take(tensor.offset as u64 * width),
            &mut std::io::sink(),
        )?;
        let count = usize::try_from(count).map_err(candle_core::Error::wrap)?;
        // The values of a reversed layout are in the order of the last axis first.
        let order: Vec<usize> = if reversed {
            dims.iter().rev().copied().collect()
        } else {
            dims.to_vec()
        };
        let (device, order) = (&Device::Cpu, Shape::from(order));
        let read = match tensor.dtype {
            DType::F32 => Tensor::from_vec(values::<f32>(&mut part, count)?, order, device),
            DType::F64 => Tensor::from_vec(values::<f64>(&mut part, count)?, order, device),
            DType::I64 => Tensor::from_vec(values::<i64>(&mut part, count)?, order, device),
            DType::F16 => {
                let bits = values::<u16>(&mut part, count)?;
                Tensor::from_vec(bits.reinterpret_into::<f16>(), order, device)
            }
            DType::BF16 => {
                let bits = values::<u16>(&mut part, count)?;
                Tensor::from_vec(bits.reinterpret_into::<bf16>(), order, device)
            }
            _ => Tensor::from_vec(values::<u8>(&mut part, count)?, order, device),
        }?;
        if reversed {
            let axes: Vec<usize> = (0..dims.len()).rev().collect();
            return read.permute(axes).map(Some);
        }
        Ok(Some(read))
    }
}

fn archive(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    ZipArchive::new(BufReader::new(File::open(path)?)).map_err(candle_core::Error::wrap)
}

/// Reads `count` values of a type whose bytes are little-endian, as this machine's are.
fn values<T: Pod>(reader: &mut impl std::io::Read, count: usize) -> Result<Vec<T>> {
    let mut values = vec![T::zeroed(); count];
    reader.read_exact(bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// Returns the entries of a dictionary that are sizes.
fn sizes(dictionary: &Object) -> BTreeMap<String, usize> {
    let Value::Dictionary(entries) = &dictionary.value else {
        return BTreeMap::new();
    };
    let sizes = entries
        .iter()
        .filter_map(|(name, value)| Some((name.text()?.to_owned(), value.size()?)));
    sizes.collect()
}

/// Returns the tensors in a dictionary; other entries are left out.
fn tensors(dictionary: &Object, folder: &str) -> Result<BTreeMap<String, TorchTensor>> {
    let Value::Dictionary(entries) = &dictionary.value else {
        return Ok(BTreeMap::new());
    };
    let mut tensors = BTreeMap::new();
    for (name, value) in entries {
        let (Some(name), Some(arguments)) = (name.text(), rebuilt(value)) else {
            continue;
        };
        let Some(tensor) = tensor(arguments, folder) else {
            bail!("{name} is a tensor of a kind that is not supported");
        };
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// Returns the arguments with which a tensor is rebuilt; `None` if the object is no tensor.
fn rebuilt(object: &Object) -> Option<&[std::rc::Rc<Object>]> {
    if let Some([tensor, ..]) = object.call_of("torch._utils", "_rebuild_parameter") {
        return tensor.call_of("torch._utils", "_rebuild_tensor_v2");
    }
    if let Some([_, _, arguments, ..]) = object.call_of("torch._tensor", "_rebuild_from_type_v2") {
        return Some(arguments.sequence());
    }
    object.call_of("torch._utils", "_rebuild_tensor_v2")
}

/// Reads `storage, offset, size, stride` and, in the storage, `"storage", type, key, device, length`.
fn tensor(arguments: &[std::rc::Rc<Object>], folder: &str) -> Option<TorchTensor> {
    let [storage, offset, size, stride, ..] = arguments else {
        return None;
    };
    let Value::Persistent(storage) = &storage.value else {
        return None;
    };
    let [_, class, key, ..] = storage.sequence() else {
        return None;
    };
    let Value::Class { name, .. } = &class.value else {
        return None;
    };
    let dtype = match name.as_str() {
        "FloatStorage" => DType::F32,
        "DoubleStorage" => DType::F64,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "ByteStorage" => DType::U8,
        "LongStorage" => DType::I64,
        _ => return None,
    };
    let axes = |object: &Object| {
        object
            .sequence()
            .iter()
            .map(|axis| axis.size())
            .collect::<Option<Vec<_>>>()
    };
    let (size, stride) = (axes(size)?, axes(stride)?);
    // The product is taken in many places: a shape whose product does not fit is none.
    size.iter().try_fold(dtype.size_in_bytes(), |product, &axis| {
        product.checked_mul(axis.max(1))
    })?;
    (size.len() == stride.len()).then_some(())?;
    Some(TorchTensor {
        dtype,
        layout: Layout::new(Shape::from(size), stride, 0),
        offset: offset.size()?,
        part: format!("{folder}/{}", key.text()?),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zip::write::SimpleFileOptions;

    use super::*;

    /// Saves a dictionary with the tensor `a`, whose arguments are those of a rebuilt tensor or another
    /// tuple.
    fn saved(arguments: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pickle = [
            b"}(X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n",
            arguments,
            b"Ru.",
        ]
        .concat();
        let mut zip = zip::ZipWriter::new(file.reopen().unwrap());
        let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("x/data.pkl", stored).unwrap();
        zip.write_all(&pickle).unwrap();
        zip.start_file("x/data/0", stored).unwrap();
        zip.write_all(&[0; 24]).unwrap();
        zip.finish().unwrap();
        file
    }

    fn arguments(size: &[i32], stride: &[i32]) -> Vec<u8> {
        let tuple = |axes: &[i32]| {
            let axes = axes
                .iter()
                .flat_map(|axis| [&b"J"[..], &axis.to_le_bytes()].concat());
            [vec![b'('], axes.collect(), vec![b't']].concat()
        };
        let storage = b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK\0";
        [&storage[..], &tuple(size), &tuple(stride), b"t"].concat()
    }

    #[test]
    fn a_tensor_is_read_in_either_order_of_its_axes() {
        for (stride, reversed) in [([3, 1], false), ([1, 2], true)] {
            let file = TorchFile::open(saved(&arguments(&[2, 3], &stride)).path()).unwrap();
            assert_eq!(file.shape("a"), Some(&[2, 3][..]), "reversed: {reversed}");
        }
        let saved = saved(&arguments(&[2, 3], &[1, 2]));
        let file = TorchFile::open(saved.path()).unwrap();
        assert_eq!(file.load("a").unwrap().unwrap().dims(), [2, 3]);
        assert!(file.load("b").unwrap().is_none());
    }

    #[test]
    fn a_tensor_that_the_file_cannot_hold_is_refused_by_name() {
        let large = saved(&arguments(&[i32::MAX, 1000], &[1000, 1]));
        let file = TorchFile::open(large.path()).unwrap();
        let refused = file.load("a").unwrap_err().to_string();
        assert!(
            refused.contains("a has the shape [2147483647, 1000]"),
            "{refused}"
        );
        for tuple in [
            arguments(&[i32::MAX; 3], &[1; 3]),
            arguments(&[2, 3], &[1]),
            arguments(&[-2, 3], &[3, 1]),
            b"(K\x01t".to_vec(),
            b")".to_vec(),
        ] {
            let Err(refused) = TorchFile::open(saved(&tuple).path()) else {
                panic!("{tuple:?} is read");
            };
            assert!(
                refused.to_string().contains("a is a tensor of a kind"),
                "{refused}"
            );
        }
    }
}
