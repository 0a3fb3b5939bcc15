//! A safetensors file that is mapped into memory. Weights are used where they lie in the page cache, which
//! all engines of a machine share and which the kernel can reclaim.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::slice::HalfBitsSliceExt;
use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};

/// A mapped file and the places of its tensors.
pub(crate) struct MappedFile {
    map: Arc<Mmap>,
    entries: HashMap<String, TensorEntry>,
}

/// The place of one tensor in the file.
struct TensorEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// One tensor of a mapped file; it keeps the map alive.
#[derive(Clone)]
pub(crate) struct MappedTensor {
    map: Arc<Mmap>,
    bytes: Range<usize>,
    dtype: DType,
    shape: Vec<usize>,
}

/// The values of a tensor in their stored type.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl MappedFile {
    /// Maps a file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let map = map_file(&File::open(path)?)?;
        let (header, metadata) = SafeTensors::read_metadata(&map)?;
        // The data begin after the header, which is preceded by its length in eight bytes.
        let start = header + size_of::<u64>();
        let entries: HashMap<String, TensorEntry> = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (from, to) = info.data_offsets;
                let entry = TensorEntry {
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    bytes: start + from..start + to,
                };
                (name, entry)
            })
            .collect();
        let end = entries.values().map(|entry| entry.bytes.end).max();
        if end.is_some_and(|end| end > map.len()) {
            bail!(
                "the file is {} bytes long, its tensors end at {}",
                map.len(),
                end.unwrap_or(0)
            );
        }
        Ok(Self {
            map: Arc::new(map),
            entries,
        })
    }

    /// Returns the bytes of a value of the largest tensor, or `None` if the file has no tensors.
    pub(crate) fn bytes_per_value(&self) -> Option<usize> {
        let largest = self.entries.values().max_by_key(|entry| entry.bytes.len())?;
        Some(largest.bytes.len() / largest.shape.iter().product::<usize>().max(1))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    pub(crate) fn map(&self) -> Arc<Mmap> {
        Arc::clone(&self.map)
    }

    /// Copies a tensor in its stored type, onto the host.
    pub(crate) fn copy(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        let dtype = DType::try_from(entry.dtype)?;
        Tensor::from_raw_buffer(&self.map[entry.bytes.clone()], dtype, &entry.shape, &Device::Cpu).map(Some)
    }

    /// Returns a tensor in its place in the map, or `None` if its type is not supported or its place is not
    /// aligned.
    pub(crate) fn tensor(&self, name: &str) -> Option<MappedTensor> {
        let entry = self.entries.get(name)?;
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            _ => return None,
        };
        let tensor = MappedTensor {
            map: Arc::clone(&self.map),
            bytes: entry.bytes.clone(),
            dtype,
            shape: entry.shape.clone(),
        };
        tensor.try_values().is_some().then_some(tensor)
    }
}

impl MappedTensor {
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Copies the tensor to `device` as `dtype`, and then releases the pages that it was read from.
    pub(crate) fn copy(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let bytes = &self.map[self.bytes.clone()];
        let tensor = if self.dtype == dtype {
            Tensor::from_raw_buffer(bytes, dtype, &self.shape, device)?
        } else {
            // The conversion runs on the host, so that the device never holds the tensor in a wider type.
            Tensor::from_raw_buffer(bytes, self.dtype, &self.shape, &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)?
        };
        self.release_pages();
        Ok(tensor)
    }

    /// Releases the pages of this tensor to the kernel until it is used again.
    pub(crate) fn release_pages(&self) {
        release_pages(&self.map, self.bytes.clone());
    }

    fn try_values(&self) -> Option<Values<'_>> {
        let bytes = &self.map[self.bytes.clone()];
        let bits = || bytemuck::try_cast_slice::<u8, u16>(bytes).ok();
        Some(match self.dtype {
            DType::F32 => Values::F32(bytemuck::try_cast_slice(bytes).ok()?),
            DType::F16 => Values::F16(bits()?.reinterpret_cast()),
            _ => Values::Bf16(bits()?.reinterpret_cast()),
        })
    }

    /// Returns the values where they lie in the map.
    pub(crate) fn values(&self) -> Result<Values<'_>> {
        match self.try_values() {
            Some(values) => Ok(values),
            None => bail!("a mapped tensor is not aligned"),
        }
    }
}

impl<'a> Values<'a> {
    /// Returns some of the values as `f32`: where they lie if they are `f32`, else converted in `buffer`.
    pub(crate) fn read<'b>(&self, range: Range<usize>, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        use half::slice::HalfFloatSliceExt;
        match self {
            Self::F32(values) => return &values[range],
            Self::F16(values) => {
                buffer.resize(range.len(), 0.0);
                values[range].convert_to_f32_slice(buffer);
            }
            Self::Bf16(values) => {
                buffer.resize(range.len(), 0.0);
                values[range].convert_to_f32_slice(buffer);
            }
        }
        buffer
    }
}

/// Releases the pages of some bytes of a map to the kernel, so that they no longer count as this process's
/// memory. A later read takes them from the page cache again, or from the disk.
#[expect(unsafe_code, reason = "`madvise` is needed to release pages of a map")]
pub(super) fn release_pages(map: &Mmap, bytes: Range<usize>) {
    // SAFETY: the map is shared and only read. A thread that reads one of its pages, even at this moment,
    // reads the bytes of the file, before and after the call.
    let advised = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
    if let Err(error) = advised {
        tracing::debug!(%error, "cannot release the pages of idle weights");
    }
}

#[expect(
    unsafe_code,
    reason = "gigabytes of weights are mapped, not read into a second copy"
)]
fn map_file(file: &File) -> Result<Mmap> {
    // SAFETY: weight files are replaced by renaming and never written in place, so that the mapped bytes do
    // not change. If a file were truncated under the map, this process would end, which the supervisor
    // survives.
    Ok(unsafe { Mmap::map(file)? })
}
