//! Converts a checkpoint to safetensors files of one type, which can be mapped into memory and shared by
//! several engines. `latentfarm-worker weights convert` runs it.

use std::path::Path;

use candle_core::{DType, Result};
use half::f16;

use super::files::{CheckpointFiles, Network};
use super::metadata::{FolderMetadata, MadeBy, prepare_folder};
use super::text::{dims_json, read_text, write_json, write_text};
use crate::config::{UNetConfig, VaeConfig};
use crate::tensors::{TensorFile, TensorSpec, WeightsError, write_safetensors};

/// The type of the values in a converted checkpoint; position tables are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredAs {
    /// Half precision, which takes half the memory.
    F16,
    /// Single precision, for values beyond the range of `f16`.
    F32,
}

impl StoredAs {
    fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
        }
    }
}

/// The ends of the names of position tables, which `f16` would round too coarsely.
const KEPT_IN_F32: [&str; 2] = ["pos_encoder.pe", "positional_embedding"];

/// Converts the checkpoint in `from` into the folder `to`, which is made if it is missing. One tensor is in
/// memory at a time. Only the encoder of Whisper is written, because its decoder is not used. `progress` is
/// called with the numbers of bytes that were written, in all [`converted_bytes`].
///
/// # Errors
/// Fails if the source does not fit its configuration, if `to` holds anything but an earlier conversion, if a
/// value is too large for the type, or if a file cannot be written.
pub fn convert(
    from: &Path,
    to: &Path,
    stored_as: StoredAs,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<(), WeightsError> {
    let files = CheckpointFiles::in_dir(from)?;
    for (network, _) in files.weight_files() {
        files.check(network)?;
    }
    let folder = WeightsError::folder(to);
    prepare_folder(to, MadeBy::Convert)?;
    if to.canonicalize().map_err(folder)? == from.canonicalize().map_err(folder)? {
        return Err(WeightsError::Foreign { dir: to.to_owned() });
    }
    let mut metadata = FolderMetadata {
        made_by: Some(MadeBy::Convert),
        note: described(&files.metadata.note, stored_as),
        files: std::collections::BTreeMap::new(),
        ..files.metadata.clone()
    };
    // The metadata are written first, so that an interrupted conversion can be started again in the same
    // folder.
    metadata.write(to)?;

    for sub_folder in ["vae", "whisper"] {
        std::fs::create_dir_all(to.join(sub_folder)).map_err(folder)?;
    }
    let whisper_size = files.whisper.file_stem().unwrap_or_default().to_string_lossy();
    copy_text(
        &from.join("unet_config.json"),
        UNetConfig::PUBLISHED,
        &to.join("unet_config.json"),
    )?;
    copy_text(
        &files.vae.with_file_name("config.json"),
        VaeConfig::PUBLISHED,
        &to.join("vae/config.json"),
    )?;
    write_json(
        &to.join(format!("whisper/{whisper_size}.json")),
        &dims_json(files.dims),
    )?;
    for (network, path) in files.weight_files() {
        let name = match network {
            Network::Unet => "latentsync_unet.safetensors".to_owned(),
            Network::Vae => "vae/diffusion_pytorch_model.safetensors".to_owned(),
            Network::Whisper => format!("whisper/{whisper_size}.safetensors"),
        };
        let file = TensorFile::open(path)?;
        let specs = tensor_specs(&file, network, stored_as);
        let mut record = write_safetensors(
            &to.join(&name),
            specs,
            &mut |tensor, bytes| rewrite(&file, tensor, bytes),
            progress,
        )?;
        record.source = path.display().to_string();
        metadata.files.insert(name, record);
    }
    metadata.write(to)
}

/// Returns the bytes of all tensors that [`convert`] would write, for a progress bar.
///
/// # Errors
/// Fails if a file is missing or unreadable.
pub fn converted_bytes(from: &Path, stored_as: StoredAs) -> std::result::Result<u64, WeightsError> {
    let files = CheckpointFiles::in_dir(from)?;
    let mut bytes = 0;
    for (network, path) in files.weight_files() {
        let specs = tensor_specs(&TensorFile::open(path)?, network, stored_as);
        bytes += specs.iter().map(|tensor| tensor.bytes() as u64).sum::<u64>();
    }
    Ok(bytes)
}

/// Returns the description of the folder with the conversion appended.
fn described(note: &str, stored_as: StoredAs) -> String {
    let done = match stored_as {
        StoredAs::F16 => "converted to f16",
        StoredAs::F32 => "converted to f32",
    };
    if note.is_empty() {
        done.to_owned()
    } else {
        format!("{note}; {done}")
    }
}

/// Copies a text file, or writes the text `otherwise` if it does not exist.
fn copy_text(from: &Path, otherwise: &str, to: &Path) -> std::result::Result<(), WeightsError> {
    write_text(to, read_text(from)?.as_deref().unwrap_or(otherwise))
}

/// Returns what the converted file of a network holds.
fn tensor_specs(file: &TensorFile, network: Network, stored_as: StoredAs) -> Vec<TensorSpec> {
    let names = file.names().into_iter();
    names
        .filter(|name| name.starts_with(network.prefix()))
        .map(|name| TensorSpec {
            shape: file.shape(&name).unwrap_or_default(),
            dtype: if KEPT_IN_F32.iter().any(|table| name.ends_with(table)) {
                DType::F32
            } else {
                stored_as.dtype()
            },
            name,
        })
        .collect()
}

/// Appends the values of a tensor in the type that `spec` gives.
fn rewrite(file: &TensorFile, spec: &TensorSpec, bytes: &mut Vec<u8>) -> Result<()> {
    let Some(tensor) = file.load(&spec.name)? else {
        candle_core::bail!("{} is missing", spec.name);
    };
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    drop(tensor);
    let refuse = |value: f32| {
        candle_core::Error::Msg(format!(
            "{} holds {value}, which {} cannot represent",
            spec.name,
            spec.dtype.as_str()
        ))
    };
    for value in values {
        let rounded = f16::from_f32(value);
        if spec.dtype == DType::F32 && value.is_finite() {
            bytes.extend(value.to_le_bytes());
        } else if spec.dtype == DType::F16 && rounded.is_finite() {
            bytes.extend(rounded.to_le_bytes());
        } else {
            return Err(refuse(value));
        }
    }
    Ok(())
}
