//! Reads a plain number from a torch checkpoint, because candle's reader returns tensors only. Whisper's
//! files need it: their number of heads does not follow from the tensors' shapes.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::pickle::{Object, Stack};

/// Returns the integer `dictionary[key]` of the dictionary at the top of a torch checkpoint, which is a zip
/// archive without compression. Returns `None` if the file or the entry does not exist or has another form.
pub(super) fn read_int(path: &Path, dictionary: &str, key: &str) -> Option<i64> {
    let mut file = File::open(path).ok()?;
    let start = pickle_start(&mut file)?;
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut stack = Stack::empty();
    stack.read_loop(&mut BufReader::new(file)).ok()?;
    let top = stack.finalize().ok()?;
    let inner = entry(top, dictionary)?;
    entry(inner, key)?.int_or_long().ok()
}

/// Returns the value of `key` in a pickled dictionary.
fn entry(object: Object, key: &str) -> Option<Object> {
    let pairs = object.dict().ok()?;
    pairs
        .into_iter()
        .find(|(name, _)| matches!(name, Object::Unicode(text) if text == key))
        .map(|(_, value)| value)
}

const END_OF_DIRECTORY: [u8; 4] = *b"PK\x05\x06";
const DIRECTORY_ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL_HEADER: [u8; 4] = *b"PK\x03\x04";

/// Returns the offset in the file at which the archive's `data.pkl` begins, read from the archive's central
/// directory.
fn pickle_start(file: &mut File) -> Option<u64> {
    let length = file.metadata().ok()?.len();
    let tail_start = length.saturating_sub(1 << 16);
    let tail = read_at(file, tail_start, usize::try_from(length - tail_start).ok()?)?;
    let end = tail.windows(4).rposition(|bytes| bytes == END_OF_DIRECTORY)?;
    let directory_bytes = usize::try_from(number(&tail, end + 12, 4)?).ok()?;
    let directory_start = number(&tail, end + 16, 4)?;
    let directory = read_at(file, directory_start, directory_bytes)?;

    let mut at = 0;
    while directory.get(at..at + 4)? == DIRECTORY_ENTRY {
        let field = |offset: usize| usize::try_from(number(&directory, at + offset, 2)?).ok();
        let (name_bytes, extra_bytes, comment_bytes) = (field(28)?, field(30)?, field(32)?);
        let name = directory.get(at + 46..at + 46 + name_bytes)?;
        if name.ends_with(b"/data.pkl") && field(10)? == 0 {
            let header_start = number(&directory, at + 42, 4)?;
            let header = read_at(file, header_start, 30)?;
            if header[..4] != LOCAL_HEADER {
                return None;
            }
            return Some(header_start + 30 + number(&header, 26, 2)? + number(&header, 28, 2)?);
        }
        at += 46 + name_bytes + extra_bytes + comment_bytes;
    }
    None
}

fn read_at(file: &mut File, start: u64, count: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; count];
    file.seek(SeekFrom::Start(start)).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Reads a little-endian number of up to 8 bytes.
fn number(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    let digits = bytes.get(at..at + count)?;
    Some(
        digits
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)),
    )
}
