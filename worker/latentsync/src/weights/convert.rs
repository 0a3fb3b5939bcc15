//! Writes a checkpoint anew as safetensors in one type, which can be mapped into memory and shared.

use std::path::Path;

use candle_core::{DType, Result};
use half::f16;

use super::find::{Found, Part};
use super::note::{claim, write_json, write_text};
use super::{Maker, Note, Planned, TensorFile, WeightsError, read_text, write_safetensors};
use crate::config::{UNetConfig, VaeConfig};
use crate::synth::dims_json;

/// Type of the values in a converted checkpoint; position tables are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredAs {
    F16,
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

/// Tables of sinusoids, which `f16` would bend.
const KEPT_IN_F32: [&str; 2] = ["pos_encoder.pe", "positional_embedding"];

/// Converts the checkpoint in `from` into the folder `to`, which is made if it is missing. One tensor is in
/// memory at a time. Of Whisper the encoder is written, which is all that is used. `progress` hears of the bytes
/// written, [`converted_bytes`] in all.
///
/// # Errors
/// Where the source does not fit its configuration, `to` holds something else than an earlier conversion, a
/// value is too large for the type, or a file cannot be written.
pub fn convert(
    from: &Path,
    to: &Path,
    stored_as: StoredAs,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<(), WeightsError> {
    let found = Found::in_dir(from)?;
    for (part, _) in found.files() {
        found.check(part)?;
    }
    let folder = |source| WeightsError::Folder {
        path: to.to_owned(),
        source,
    };
    claim(to, Maker::Convert)?;
    if to.canonicalize().map_err(folder)? == from.canonicalize().map_err(folder)? {
        return Err(WeightsError::Foreign { dir: to.to_owned() });
    }
    let mut note = Note {
        made_by: Some(Maker::Convert),
        note: described(&found.note.note, stored_as),
        files: std::collections::BTreeMap::new(),
        ..found.note.clone()
    };
    // First of all, so that a conversion that was cut off can be started again here.
    note.write(to)?;

    for sub_folder in ["vae", "whisper"] {
        std::fs::create_dir_all(to.join(sub_folder)).map_err(folder)?;
    }
    let whisper_size = found.whisper.file_stem().unwrap_or_default().to_string_lossy();
    copy_text(
        &from.join("unet_config.json"),
        UNetConfig::PUBLISHED,
        &to.join("unet_config.json"),
    )?;
    copy_text(
        &found.vae.with_file_name("config.json"),
        VaeConfig::PUBLISHED,
        &to.join("vae/config.json"),
    )?;
    write_json(
        &to.join(format!("whisper/{whisper_size}.json")),
        &dims_json(found.dims),
    )?;
    for (part, path) in found.files() {
        let name = match part {
            Part::Unet => "latentsync_unet.safetensors".to_owned(),
            Part::Vae => "vae/diffusion_pytorch_model.safetensors".to_owned(),
            Part::Whisper => format!("whisper/{whisper_size}.safetensors"),
        };
        let file = TensorFile::open(path)?;
        let planned = plan(&file, part, stored_as);
        let mut record = write_safetensors(
            &to.join(&name),
            planned,
            &mut |tensor, bytes| rewrite(&file, tensor, bytes),
            progress,
        )?;
        record.source = path.display().to_string();
        note.files.insert(name, record);
    }
    note.write(to)
}

/// Bytes of all tensors that [`convert`] would write.
pub fn converted_bytes(from: &Path, stored_as: StoredAs) -> std::result::Result<u64, WeightsError> {
    let found = Found::in_dir(from)?;
    let mut bytes = 0;
    for (part, path) in found.files() {
        let planned = plan(&TensorFile::open(path)?, part, stored_as);
        bytes += planned.iter().map(|tensor| tensor.bytes() as u64).sum::<u64>();
    }
    Ok(bytes)
}

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

fn copy_text(from: &Path, otherwise: &str, to: &Path) -> std::result::Result<(), WeightsError> {
    write_text(to, read_text(from)?.as_deref().unwrap_or(otherwise))
}

fn plan(file: &TensorFile, part: Part, stored_as: StoredAs) -> Vec<Planned> {
    let names = file.names().into_iter();
    names
        .filter(|name| name.starts_with(part.prefix()))
        .map(|name| Planned {
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

/// Appends the tensor's values in the planned type.
fn rewrite(file: &TensorFile, planned: &Planned, bytes: &mut Vec<u8>) -> Result<()> {
    let Some(tensor) = file.load(&planned.name)? else {
        candle_core::bail!("{} is missing", planned.name);
    };
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    drop(tensor);
    let refuse = |value: f32| {
        candle_core::Error::Msg(format!(
            "{} holds {value}, which is no number that {} has",
            planned.name,
            planned.dtype.as_str()
        ))
    };
    for value in values {
        let rounded = f16::from_f32(value);
        if planned.dtype == DType::F32 && value.is_finite() {
            bytes.extend(value.to_le_bytes());
        } else if planned.dtype == DType::F16 && rounded.is_finite() {
            bytes.extend(rounded.to_le_bytes());
        } else {
            return Err(refuse(value));
        }
    }
    Ok(())
}
