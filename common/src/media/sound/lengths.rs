//! Sound files whose headers state lengths that the file does not bear out, because a program wrote them to a
//! pipe or was stopped: WAV, RF64, W64 and AIFF. FFmpeg does not read all of them to their end, so that a
//! copy with true lengths is read in their place.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use tempfile::TempPath;

/// No header of a sound file is longer than this.
const HEADER_BYTES: u64 = 1 << 20;
const W64_RIFF: [u8; 16] = *b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00";
const W64_DATA: [u8; 16] = *b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a";

/// A form of file that consists of chunks: name, length, content.
struct Form {
    /// Bytes before the first chunk.
    start: usize,
    name_bytes: usize,
    length_bytes: usize,
    big_endian: bool,
    /// Whether a length counts the name and itself.
    counts_header: bool,
    align: u64,
    /// Name of the chunk with the samples.
    data: &'static [u8],
    /// Bytes of that chunk before the first sample.
    data_header: u64,
}

const RIFF: Form = Form {
    start: 12,
    name_bytes: 4,
    length_bytes: 4,
    big_endian: false,
    counts_header: false,
    align: 2,
    data: b"data",
    data_header: 0,
};
const AIFF: Form = Form {
    big_endian: true,
    data: b"SSND",
    data_header: 8,
    ..RIFF
};
const W64: Form = Form {
    start: 40,
    name_bytes: 16,
    length_bytes: 8,
    counts_header: true,
    align: 8,
    data: &W64_DATA,
    ..RIFF
};

/// Writes a copy with true lengths to the folder `scratch` if FFmpeg would not read the file to its end;
/// `None` if the file itself can be read.
pub(super) fn repaired(path: &Path, scratch: &Path) -> io::Result<Option<TempPath>> {
    // Opening a pipe would wait for its writer.
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Ok(None);
    }
    let size = meta.len();
    let mut file = File::open(path)?;
    let mut header = Vec::new();
    (&mut file).take(HEADER_BYTES).read_to_end(&mut header)?;
    let Some(header) = true_header(header, size) else {
        return Ok(None);
    };
    let mut copy = tempfile::NamedTempFile::new_in(scratch)?;
    copy.write_all(&header)?;
    file.seek(SeekFrom::Start(header.len() as u64))?;
    io::copy(&mut file, &mut copy)?;
    Ok(Some(copy.into_temp_path()))
}

/// Returns the beginning of a file of `size` bytes with true lengths, or `None` if FFmpeg reads the file to
/// its end as it is, or if it is no sound file of a form that is known here.
pub(in crate::media) fn true_header(mut header: Vec<u8>, size: u64) -> Option<Vec<u8>> {
    let form = match (header.get(..4), header.get(8..12)) {
        (Some(b"RIFF" | b"RF64" | b"BW64"), Some(b"WAVE")) => &RIFF,
        (Some(b"FORM"), Some(b"AIFF" | b"AIFC")) => &AIFF,
        _ if header.starts_with(&W64_RIFF) => &W64,
        _ => return None,
    };
    let (at, length) = find_chunk(form, &header, form.data)?;
    let content = (at + form.name_bytes + form.length_bytes) as u64 + form.data_header;
    let left = size.saturating_sub(content);
    let wide = header.starts_with(b"RF64") || header.starts_with(b"BW64");
    // FFmpeg refuses such a file if it lacks the wide lengths.
    let length = if wide { wide_length(&header)? } else { length };
    let is_empty = length <= form.data_header && left > 0 && !is_chunk(form, &header, content, size);
    let frames = (form.data == AIFF.data).then(|| aiff_frames(&header)).flatten();
    let wrong_frames = frames.filter(|&(_, frames)| i32::try_from(frames).is_err());
    if !is_empty && length.saturating_sub(form.data_header) <= left && wrong_frames.is_none() {
        return None;
    }
    set_lengths(form, &mut header, at, left, wide);
    if let Some((place, _)) = wrong_frames {
        // No sample has less than one byte, and the true number only gives the duration that FFmpeg states.
        let most = u32::try_from(left)
            .unwrap_or(u32::MAX)
            .min(i32::MAX.cast_unsigned());
        header[place..place + 4].copy_from_slice(&most.to_be_bytes());
    }
    Some(header)
}

/// Returns the place of the number of sample frames in an AIFF header, and that number. FFmpeg takes one
/// above `i32::MAX` for an error.
fn aiff_frames(header: &[u8]) -> Option<(usize, u32)> {
    let (at, _) = find_chunk(&AIFF, header, b"COMM")?;
    let place = at + AIFF.name_bytes + AIFF.length_bytes + 2;
    let bytes = header.get(place..place + 4)?;
    bytes
        .try_into()
        .ok()
        .map(|bytes| (place, u32::from_be_bytes(bytes)))
}

/// Returns the place of the first chunk named `wanted` and the length that it states, without its header.
fn find_chunk(form: &Form, header: &[u8], wanted: &[u8]) -> Option<(usize, u64)> {
    let mut at = form.start;
    loop {
        let name = header.get(at..)?.get(..form.name_bytes)?;
        let length = read_length(form, header, at + form.name_bytes)?;
        let own = if form.counts_header {
            (form.name_bytes + form.length_bytes) as u64
        } else {
            0
        };
        let length = length.saturating_sub(own);
        if name == wanted {
            return Some((at, length));
        }
        let next = length.checked_next_multiple_of(form.align)?;
        at = (at + form.name_bytes + form.length_bytes).checked_add(usize::try_from(next).ok()?)?;
    }
}

fn read_length(form: &Form, header: &[u8], at: usize) -> Option<u64> {
    let bytes = header.get(at..at + form.length_bytes)?;
    let digits: Box<dyn Iterator<Item = &u8>> = if form.big_endian {
        Box::new(bytes.iter())
    } else {
        Box::new(bytes.iter().rev())
    };
    Some(digits.fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Returns the length of the samples that RF64 states in its first chunk, which has to be as long as FFmpeg
/// asks for.
fn wide_length(header: &[u8]) -> Option<u64> {
    let is_there = header.get(12..16) == Some(b"ds64") && read_length(&RIFF, header, 16)? >= 24;
    let bytes = header.get(28..36).filter(|_| is_there)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// Whether a chunk that ends within the file begins at `at`, so that an empty chunk before it is truly empty.
fn is_chunk(form: &Form, header: &[u8], at: u64, size: u64) -> bool {
    let Ok(start) = usize::try_from(at) else {
        return false;
    };
    let name = header.get(start..start + 4);
    let named = name.is_some_and(|name| name.iter().all(u8::is_ascii_graphic));
    let length = read_length(form, header, start + form.name_bytes);
    named && length.is_some_and(|length| at.saturating_add(length) <= size)
}

/// Writes the true length of the samples, `left`, and that of the whole file.
fn set_lengths(form: &Form, header: &mut [u8], data: usize, left: u64, wide: bool) {
    let own = if form.counts_header {
        (form.name_bytes + form.length_bytes) as u64
    } else {
        0
    };
    let before = (data + form.name_bytes + form.length_bytes) as u64 + form.data_header;
    let whole = before + left - if form.counts_header { 0 } else { 8 };
    let mut set = |at: usize, value: u64, bytes: usize| {
        // Four bytes hold no more than this, which FFmpeg reads as "to the end".
        let value = if bytes == 4 {
            value.min(u64::from(u32::MAX))
        } else {
            value
        };
        let Some(target) = header.get_mut(at..at + bytes) else {
            return;
        };
        if form.big_endian {
            target.copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
        } else {
            target.copy_from_slice(&value.to_le_bytes()[..bytes]);
        }
    };
    if wide {
        set(20, whole, 8);
        set(28, left, 8);
        return;
    }
    set(form.name_bytes, whole, form.length_bytes);
    set(
        data + form.name_bytes,
        left + form.data_header + own,
        form.length_bytes,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_ends_beyond_all_numbers_ends_the_search() {
        let mut header = [&W64_RIFF[..], &[0; 24], &[b'x'; 16]].concat();
        // With its own header, the chunk ends 16 bytes before the largest number.
        header.extend_from_slice(&(u64::MAX - 60).to_le_bytes());
        assert_eq!(true_header(header, 1000), None);
    }

    #[test]
    fn the_format_of_an_rf64_file_without_wide_lengths_is_not_overwritten() {
        let header = b"RF64\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x44\xac\0\0\x88\x58\x01\0\x02\0\x10\0data\xff\xff\xff\xff";
        assert_eq!(true_header(header.to_vec(), 1000), None);
        // Nor is what follows a chunk that is too short for them.
        let short = [&b"RF64\xff\xff\xff\xffWAVEds64"[..], &[0; 30], b"data\0\0\0\0"].concat();
        assert_eq!(true_header(short, 1000), None);
    }

    /// A WAV file of these chunks, each with the length that its header states.
    fn wav(chunks: &[(&[u8; 4], u32, &[u8])]) -> Vec<u8> {
        let mut file = b"RIFF\xff\xff\xff\xffWAVE".to_vec();
        for (name, length, content) in chunks {
            file.extend_from_slice(*name);
            file.extend_from_slice(&length.to_le_bytes());
            file.extend_from_slice(content);
        }
        file
    }

    #[test]
    fn samples_after_a_chunk_of_odd_length_are_found() {
        // A byte of padding follows the chunk.
        let file = wav(&[(b"LIST", 5, b"title\0"), (b"data", u32::MAX, &[1; 8])]);
        let size = file.len() as u64;
        let length = file.len() - 12;
        let repaired = true_header(file, size).unwrap();
        assert_eq!(repaired[length..length + 4], 8_u32.to_le_bytes());
    }

    #[test]
    fn a_chunk_without_samples_is_empty_if_another_chunk_follows() {
        let file = wav(&[(b"data", 0, b""), (b"LIST", 4, b"INFO")]);
        let size = file.len() as u64;
        assert_eq!(true_header(file, size), None);
        let file = wav(&[(b"data", 0, b"samples that follow")]);
        let size = file.len() as u64;
        assert!(
            true_header(file, size).is_some(),
            "a length that was never filled in"
        );
    }
}
