//! Target `sound_header`: the repair of lengths in sound files that were written to a pipe.

use latentfarm_common::media::fuzzing::true_header;

/// Repairs the beginning of a file. The first eight bytes say how much longer the file is.
///
/// # Panics
/// Panics if the repair is not one.
pub fn check(data: &[u8]) {
    let Some((more, header)) = data.split_first_chunk() else {
        return;
    };
    // A file of more than an exbibyte is not possible.
    let size = header.len() as u64 + (u64::from_le_bytes(*more) >> 4);
    if let Some(repaired) = true_header(header.to_vec(), size) {
        assert_eq!(repaired.len(), header.len(), "the repair moves the samples");
        assert_ne!(repaired, header, "the repair changes nothing");
        let again = true_header(repaired.clone(), size);
        assert_eq!(again, None, "{repaired:?} is repaired twice");
    }
}

/// Headers of each form: right ones, and with the lengths that programs write to a pipe.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for length in [200_u32, 0, u32::MAX, 0x7fff_ffff] {
        for header in [wav(length), aiff(length), rf64(length), w64(length)] {
            for more in [0_u64, 200 << 4, 5 << 36] {
                seeds.push([&more.to_le_bytes(), &header[..]].concat());
            }
        }
    }
    seeds
}

const PCM: [u8; 16] = [1, 0, 1, 0, 0x44, 0xac, 0, 0, 0x88, 0x58, 1, 0, 2, 0, 16, 0];

fn chunk(name: &[u8], content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [name, &length.to_le_bytes(), content].concat()
}

fn wav(length: u32) -> Vec<u8> {
    let data = length.to_le_bytes();
    [
        b"RIFF",
        &data[..],
        b"WAVE",
        &chunk(b"fmt ", &PCM),
        b"LIST\x04\0\0\0INFO",
        b"data",
        &data,
    ]
    .concat()
}

fn rf64(length: u32) -> Vec<u8> {
    let sizes = [u64::from(length) + 72, u64::from(length), 0]
        .map(u64::to_le_bytes)
        .concat();
    let sizes = chunk(b"ds64", &[&sizes[..], &[0; 4]].concat());
    [
        b"RF64\xff\xff\xff\xffWAVE",
        &sizes[..],
        &chunk(b"fmt ", &PCM),
        b"data\xff\xff\xff\xff",
    ]
    .concat()
}

fn aiff(length: u32) -> Vec<u8> {
    let data = length.to_be_bytes();
    let common = [
        &[0, 1],
        &data[..],
        &[0, 16, 0x40, 0x0e, 0xac, 0x44, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let common = [b"COMM", &18_u32.to_be_bytes()[..], &common].concat();
    [b"FORM", &data[..], b"AIFF", &common, b"SSND", &data, &[0; 8]].concat()
}

fn w64(length: u32) -> Vec<u8> {
    let data = u64::from(length).to_le_bytes();
    let name = |name: &[u8], rest: &[u8]| [name, rest].concat();
    let tail = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a";
    [
        name(b"riff", b"\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"),
        data.to_vec(),
        name(b"wave", tail),
        name(b"fmt ", tail),
        40_u64.to_le_bytes().to_vec(),
        PCM.to_vec(),
        name(b"data", tail),
        data.to_vec(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_of_each_form_is_repaired() {
        for header in [wav(0), aiff(0), rf64(u32::MAX), w64(u32::MAX)] {
            assert!(true_header(header.clone(), 1000).is_some(), "{header:?}");
        }
    }
}
