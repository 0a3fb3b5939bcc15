//! Tests of folders of weights that are made, converted and verified, by the library and by the commands.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

#[path = "../latentsync/tests/support/mod.rs"]
mod support;
#[path = "../latentsync/tests/torch/mod.rs"]
mod torch;

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use candle_core::{DType, Device};
use latentfarm_common::wire::job::WeightsKind;
use latentsync::checkpoint::{DigestCheck, FolderMetadata, StoredAs, convert, converted_bytes, verify};
use latentsync::synth::{Size, bytes_of, synthesize, synthesize_watched};
use latentsync::tensors::{list_tensors, read_tensor};
use latentsync::{Checkpoint, ExecutionOptions, LatentSync};
use torch::{Around, tensors_of};

const FILES: [&str; 3] = [
    "latentsync_unet.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "whisper/tiny.safetensors",
];

fn tiny() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    synthesize(dir.path(), Size::Tiny, 3).unwrap();
    dir
}

fn worker(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_latentfarm-worker"))
        .arg("weights")
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Makes tiny weights whose UNet is a torch file of `f32` values that `f16` must round.
fn unrounded() -> tempfile::TempDir {
    let dir = tiny();
    let path = dir.path().join(FILES[0]);
    let mut tensors = tensors_of(&path);
    for tensor in tensors.values_mut() {
        *tensor = (tensor.to_dtype(DType::F32).unwrap() * 1.000_123).unwrap();
    }
    std::fs::remove_file(path).unwrap();
    torch::save(&dir.path().join("latentsync_unet.pt"), &tensors, Around::Training);
    dir
}

#[test]
fn converted_checkpoint_is_the_original_rounded_to_f16_and_loads() {
    let from = unrounded();
    let to = tempfile::tempdir().unwrap();
    let mut bytes = 0;
    convert(from.path(), to.path(), StoredAs::F16, &mut |more| bytes += more).unwrap();
    assert_eq!(bytes, converted_bytes(from.path(), StoredAs::F16).unwrap());

    let (mut rounded, mut tables) = (0, 0);
    for (old, new) in ["latentsync_unet.pt", FILES[1], FILES[2]].iter().zip(FILES) {
        let (old, new) = (from.path().join(old), to.path().join(new));
        let listed = list_tensors(&old).unwrap();
        assert_eq!(listed, list_tensors(&new).unwrap());
        for (name, _) in listed {
            let (was, is) = (
                read_tensor(&old, &name).unwrap(),
                read_tensor(&new, &name).unwrap(),
            );
            let is_table = name.ends_with("pos_encoder.pe") || name.ends_with("positional_embedding");
            let dtype = if is_table { DType::F32 } else { DType::F16 };
            assert_eq!(is.dtype(), dtype, "{name}");
            let expected = support::values(&was.to_dtype(dtype).unwrap());
            assert!(support::values(&is) == expected, "{name}");
            rounded += usize::from(expected != support::values(&was));
            tables += usize::from(is_table);
        }
        let file = std::fs::read(&new).unwrap();
        let header = u64::from_le_bytes(file[..8].try_into().unwrap());
        assert_eq!((8 + header) % 64, 0, "tensors begin on 64 bytes");
    }
    assert!(rounded > 100 && tables > 2, "{rounded} rounded, {tables} tables");

    let checkpoint = Checkpoint::open(to.path()).unwrap();
    assert_eq!(checkpoint.kind(), WeightsKind::Synthetic);
    assert_eq!(checkpoint.resolution_px(), 64);
    checkpoint.check_tensors().unwrap();
    LatentSync::load(&checkpoint, &Device::Cpu, DType::F32, ExecutionOptions::default())
        .unwrap_or_else(|error| panic!("{error}"));
    let note = FolderMetadata::read(to.path()).unwrap().unwrap();
    assert!(
        note.note.ends_with("not a trained model; converted to f16"),
        "{}",
        note.note
    );
    assert!(
        verify(to.path(), &mut |_| ())
            .unwrap()
            .iter()
            .all(|v| v.digest == DigestCheck::MatchesRecord)
    );
}

#[test]
fn conversion_to_f32_keeps_every_value() {
    let (from, to) = (unrounded(), tempfile::tempdir().unwrap());
    convert(from.path(), to.path(), StoredAs::F32, &mut |_| ()).unwrap();
    let (old, new) = (from.path().join("latentsync_unet.pt"), to.path().join(FILES[0]));
    for (name, _) in list_tensors(&old).unwrap() {
        let (was, is) = (
            read_tensor(&old, &name).unwrap(),
            read_tensor(&new, &name).unwrap(),
        );
        assert_eq!(is.dtype(), DType::F32);
        assert!(support::values(&is) == support::values(&was), "{name}");
    }
}

#[test]
fn value_out_of_the_range_of_f16_ends_the_conversion_and_is_named() {
    let (from, to) = (tiny(), tempfile::tempdir().unwrap());
    let path = from.path().join(FILES[0]);
    let mut tensors = tensors_of(&path);
    let bias = tensors.get_mut("conv_in.bias").unwrap();
    *bias = (bias.to_dtype(DType::F32).unwrap() + 70_000.0).unwrap();
    candle_core::safetensors::save(&tensors.into_iter().collect(), &path).unwrap();
    let error = convert(from.path(), to.path(), StoredAs::F16, &mut |_| ()).unwrap_err();
    let printed = latentfarm_common::error::one_line(&error);
    assert!(
        printed.contains("conv_in.bias holds ") && printed.contains("which f16 cannot represent"),
        "{printed}"
    );
    assert!(!to.path().join(FILES[0]).exists());
    // The same folder may be used again.
    synthesize(from.path(), Size::Tiny, 3).unwrap();
    convert(from.path(), to.path(), StoredAs::F16, &mut |_| ()).unwrap();
}

#[test]
fn foreign_folders_are_not_written_to() {
    let (from, foreign) = (tiny(), tempfile::tempdir().unwrap());
    std::fs::write(foreign.path().join("thesis.txt"), "irreplaceable").unwrap();
    let (from_text, foreign_text) = (from.path().to_str().unwrap(), foreign.path().to_str().unwrap());
    for args in [
        &["convert", from_text, "--out", foreign_text][..],
        &["convert", from_text, "--out", from_text],
        &["synth", "--size", "tiny", "--out", foreign_text],
    ] {
        let output = worker(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let printed = text(&output.stderr);
        assert!(printed.contains("this command did not make"), "{printed}");
    }
    assert_eq!(std::fs::read_dir(foreign.path()).unwrap().count(), 1);
    Checkpoint::open(from.path()).unwrap().check_tensors().unwrap();
}

#[test]
fn synthetic_weights_have_the_size_that_was_announced() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = 0;
    synthesize_watched(dir.path(), Size::Tiny, 3, &mut |more| bytes += more).unwrap();
    assert_eq!(bytes, bytes_of(Size::Tiny).unwrap());
    // 1,267,099,844 of the UNet and 83,653,863 of the VAE in two bytes each; the rest are Whisper and tables.
    let full = bytes_of(Size::Full).unwrap();
    assert!((2_701_507_414..2_730_000_000).contains(&full), "{full}");
}

/// Changes one byte in the middle of a file but not its modification time, as a failing disk does.
fn damage(path: &Path) {
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn verify_reports_on_each_file() {
    let dir = tiny();
    let dir_text = dir.path().to_str().unwrap();
    let output = worker(&["verify", dir_text]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}");
    for name in FILES {
        let line = printed.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(
            line.contains("good, digest as recorded when it was made, all "),
            "{line}"
        );
    }
    assert!(printed.contains(": complete, identity "), "{printed}");

    damage(&dir.path().join(FILES[1]));
    for _again in 0..2 {
        let output = worker(&["verify", dir_text]);
        assert_eq!(output.status.code(), Some(2));
        let printed = text(&output.stdout);
        let lines: Vec<&str> = printed.lines().collect();
        assert!(lines[0].contains(": good"), "{printed}");
        assert!(lines[1].contains(": BAD, SHA-256 is "), "{printed}");
        assert!(lines[2].contains(": good"), "{printed}");
    }
}

#[test]
fn without_a_note_a_file_is_compared_with_its_first_use() {
    let dir = tiny();
    let verdicts = |dir: &Path| -> Vec<DigestCheck> {
        let verdicts = verify(dir, &mut |_| ()).unwrap();
        verdicts.iter().map(|verdict| verdict.digest).collect()
    };
    std::fs::remove_file(dir.path().join("latentfarm.json")).unwrap();
    assert_eq!(verdicts(dir.path()), [DigestCheck::NotRecorded; 3]);
    assert_eq!(verdicts(dir.path()), [DigestCheck::MatchesFirstUse; 3]);
    damage(&dir.path().join(FILES[2]));
    assert!(matches!(verdicts(dir.path())[2], DigestCheck::Mismatch { .. }));
    assert!(
        matches!(verdicts(dir.path())[2], DigestCheck::Mismatch { .. }),
        "a wrong digest is not recorded"
    );
}

#[test]
fn verify_finds_values_that_are_no_numbers_and_files_cut_short() {
    let dir = tiny();
    let path = dir.path().join(FILES[1]);
    let mut tensors = tensors_of(&path);
    let bias = tensors.get_mut("quant_conv.bias").unwrap();
    *bias = (bias.zeros_like().unwrap().log()).unwrap();
    candle_core::safetensors::save(&tensors.into_iter().collect(), &path).unwrap();
    let verdicts = verify(dir.path(), &mut |_| ()).unwrap();
    let problem = verdicts[1].problem.as_deref().unwrap();
    assert!(
        problem.contains("quant_conv.bias holds a value that is not a finite number"),
        "{problem}"
    );

    let whole = std::fs::metadata(dir.path().join(FILES[0])).unwrap().len();
    let file = std::fs::File::options()
        .write(true)
        .open(dir.path().join(FILES[0]))
        .unwrap();
    file.set_len(whole - 1).unwrap();
    let verdicts = verify(dir.path(), &mut |_| ()).unwrap();
    assert!(
        verdicts[0]
            .problem
            .as_deref()
            .unwrap()
            .contains("cannot read weights")
    );
    assert!(!verdicts[0].is_good() && !verdicts[1].is_good() && verdicts[2].is_good());
}

#[test]
fn description_is_one_json_object() {
    let dir = tiny();
    let output = worker(&["describe", "--json", dir.path().to_str().unwrap()]);
    assert!(output.status.success());
    let described: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(described["kind"], "synthetic");
    assert_eq!(described["resolution_px"], 64);
    let identity = Checkpoint::open(dir.path()).unwrap().identity().to_string();
    assert_eq!(described["identity"], identity);
}
