//! Writes safetensors files one tensor at a time, so that no more than one is in memory. `weights convert`
//! and `weights synth` use it.
//!
//! A file is a little-endian `u64` with the length of the header, the header in JSON, padded with blanks, and
//! the tensors without gaps. Here the first tensor begins at a multiple of 64 bytes and the wider types come
//! first, so that every tensor of a mapped file is aligned for its type.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::DType;
use latentfarm_common::digest::DigestWriter;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::WeightsError;

/// The data of the first tensor begin at a multiple of this many bytes.
const ALIGNMENT: usize = 64;

/// The size and the digest of a weight file at the time when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The SHA-256 digest of the file as 64 hexadecimal digits.
    pub sha256: String,
    /// The origin of the file: a path, an address or "random".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// The name, the shape and the type of a tensor that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
    /// The stored type, which is `F32`, `F16` or `BF16`.
    pub dtype: DType,
}

impl TensorSpec {
    /// Returns the size of the tensor's data in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size_in_bytes()
    }
}

/// Writes a file under a temporary name and then renames it. `produce` appends the little-endian values of a
/// tensor to the empty buffer that it is given. `progress` is called with the bytes of every tensor that is
/// written.
///
/// # Errors
/// [`WeightsError::Write`] if `produce` fails or the file cannot be written; no file is left then.
pub(crate) fn write_safetensors(
    path: &Path,
    mut tensors: Vec<TensorSpec>,
    produce: &mut dyn FnMut(&TensorSpec, &mut Vec<u8>) -> candle_core::Result<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<FileRecord, WeightsError> {
    tensors.sort_by(|a, b| {
        let width = |tensor: &TensorSpec| std::cmp::Reverse(tensor.dtype.size_in_bytes());
        (width(a), &a.name).cmp(&(width(b), &b.name))
    });
    let partial = partial_path(path);
    let written = write_to(&partial, &tensors, produce, progress)
        .and_then(|record| fs::rename(&partial, path).map(|()| record).map_err(Into::into));
    if written.is_err() {
        // The next attempt begins anew, so that a partial file has no use.
        let _removed = fs::remove_file(&partial);
    }
    written.map_err(WeightsError::write(path))
}

fn write_to(
    path: &Path,
    tensors: &[TensorSpec],
    produce: &mut dyn FnMut(&TensorSpec, &mut Vec<u8>) -> candle_core::Result<()>,
    progress: &mut dyn FnMut(u64),
) -> candle_core::Result<FileRecord> {
    let mut file = File::create(path)?;
    let mut digest = DigestWriter::new();
    let mut buffer = header(tensors)?;
    file.write_all(&buffer)?;
    digest.update(&buffer);
    for tensor in tensors {
        buffer.clear();
        buffer.reserve(tensor.bytes());
        produce(tensor, &mut buffer)?;
        if buffer.len() != tensor.bytes() {
            candle_core::bail!(
                "{} has {} bytes, not {}",
                tensor.name,
                buffer.len(),
                tensor.bytes()
            );
        }
        file.write_all(&buffer)?;
        digest.update(&buffer);
        progress(tensor.bytes() as u64);
    }
    file.sync_all()?;
    let (sha256, bytes) = digest.finish();
    Ok(FileRecord {
        bytes,
        sha256: sha256.to_string(),
        source: String::new(),
    })
}

/// Returns the length and the padded header.
fn header(tensors: &[TensorSpec]) -> candle_core::Result<Vec<u8>> {
    let mut entries = Map::new();
    let mut start = 0;
    for tensor in tensors {
        let dtype = match tensor.dtype {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            other => candle_core::bail!("{} is of type {other:?}, which is not written", tensor.name),
        };
        let end = start + tensor.bytes();
        entries.insert(
            tensor.name.clone(),
            json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}),
        );
        start = end;
    }
    let mut text = serde_json::to_vec(&Value::Object(entries)).map_err(candle_core::Error::wrap)?;
    let padded = (8 + text.len()).next_multiple_of(ALIGNMENT) - 8;
    text.resize(padded, b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(bytes)
}

/// Returns the name that a file has until it is complete.
fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(name: &str, dtype: DType, count: usize) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            shape: vec![count],
            dtype,
        }
    }

    #[test]
    fn tensors_begin_on_64_bytes_and_wider_types_come_first() {
        let dir = tempfile::tempdir().unwrap();
        // Names of many lengths give a header of every length modulo 64.
        for length in 1..70 {
            let path = dir.path().join("x.safetensors");
            let plan = vec![
                planned("a", DType::F16, 3),
                planned(&"b".repeat(length), DType::F32, 5),
            ];
            let mut order = Vec::new();
            let record = write_safetensors(
                &path,
                plan,
                &mut |tensor, buffer| {
                    order.push(tensor.dtype);
                    buffer.resize(tensor.bytes(), 7);
                    Ok(())
                },
                &mut |_| (),
            )
            .unwrap();
            let bytes = fs::read(&path).unwrap();
            assert_eq!(order, [DType::F32, DType::F16]);
            assert_eq!(bytes.len() as u64, record.bytes);
            assert_eq!(
                bytes.len() % 64,
                26,
                "only the 26 bytes of data follow a multiple of 64"
            );
            let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(read.tensor("a").unwrap().data(), [7; 6]);
        }
    }

    #[test]
    fn failed_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let error = write_safetensors(
            &path,
            vec![planned("a", DType::F16, 3)],
            &mut |_, buffer| {
                buffer.push(1);
                Ok(())
            },
            &mut |_| (),
        )
        .unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
