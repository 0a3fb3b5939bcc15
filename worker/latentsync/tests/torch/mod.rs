//! Writes files as `torch.save` does: a zip archive without compression, which holds a pickle and the
//! tensors' bytes.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses another part of this"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use zip::write::SimpleFileOptions;

/// The dimensions of the tiny synthetic Whisper encoder.
pub(crate) const TINY_WHISPER_DIMS: &[(&str, u32)] = &[
    ("n_mels", 80),
    ("n_audio_ctx", 1500),
    ("n_audio_state", 64),
    ("n_audio_head", 2),
    ("n_audio_layer", 2),
];

/// The dictionaries around the tensors.
#[derive(Clone, Copy)]
pub enum Around {
    /// The file holds the dictionary of the tensors alone.
    Nothing,
    /// The file holds `{"global_step": 7, "state_dict": {...}}`, as the lip-sync model is published.
    Training,
    /// The file holds `{"dims": {...}, "model_state_dict": {...}}`, as Whisper is published.
    Whisper { dims: &'static [(&'static str, u32)] },
}

/// Reads the tensors of a safetensors file.
pub fn tensors_of(path: &Path) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .unwrap()
        .into_iter()
        .collect()
}

/// Saves the tensors, which are `f32` or `f16`.
pub fn save(path: &Path, tensors: &BTreeMap<String, Tensor>, around: Around) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(&pickle(tensors, around)).unwrap();
    zip.start_file("archive/byteorder", stored).unwrap();
    zip.write_all(b"little").unwrap();
    for (index, tensor) in tensors.values().enumerate() {
        zip.start_file(format!("archive/data/{index}"), stored).unwrap();
        zip.write_all(&bytes_of(tensor)).unwrap();
    }
    zip.start_file("archive/version", stored).unwrap();
    zip.write_all(b"3\n").unwrap();
    zip.finish().unwrap();
}

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F32 => flat
            .to_vec1::<f32>()
            .unwrap()
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect(),
        DType::F16 => {
            let values = flat.to_vec1::<half::f16>().unwrap();
            values.into_iter().flat_map(half::f16::to_le_bytes).collect()
        }
        other => panic!("{other:?} is not written"),
    }
}

/// Pickles the dictionaries in protocol 2, with the operations that `torch.save` uses.
fn pickle(tensors: &BTreeMap<String, Tensor>, around: Around) -> Vec<u8> {
    let mut out = vec![0x80, 2];
    match around {
        Around::Nothing => dictionary(&mut out, tensors),
        Around::Training => {
            out.extend(b"}(");
            text(&mut out, "global_step");
            number(&mut out, 7);
            text(&mut out, "state_dict");
            dictionary(&mut out, tensors);
            out.push(b'u');
        }
        Around::Whisper { dims } => {
            out.extend(b"}(");
            text(&mut out, "dims");
            out.extend(b"}(");
            for (name, value) in dims {
                text(&mut out, name);
                number(&mut out, *value);
            }
            out.push(b'u');
            text(&mut out, "model_state_dict");
            dictionary(&mut out, tensors);
            out.push(b'u');
        }
    }
    out.push(b'.');
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, value: u32) {
    out.push(b'J');
    out.extend(value.to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    for value in values {
        number(out, u32::try_from(*value).unwrap());
    }
    out.push(b't');
}

/// Pickles an `OrderedDict()` with one `_rebuild_tensor_v2` for each tensor.
fn dictionary(out: &mut Vec<u8>, tensors: &BTreeMap<String, Tensor>) {
    out.extend(b"ccollections\nOrderedDict\n)R(");
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        text(out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(out, "storage");
        out.extend(match tensor.dtype() {
            DType::F16 => &b"ctorch\nHalfStorage\n"[..],
            _ => b"ctorch\nFloatStorage\n",
        });
        text(out, &index.to_string());
        text(out, "cpu");
        number(out, u32::try_from(tensor.elem_count()).unwrap());
        out.extend(b"tQ");
        number(out, 0);
        tuple(out, tensor.dims());
        tuple(out, tensor.stride());
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.push(b'u');
}
