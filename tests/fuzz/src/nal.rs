//! Target `nal`: the packets of H.264 and HEVC, in which the scanner looks for places where decoding may
//! start.

use latentfarm_common::media::VideoCodec;
use latentfarm_common::media::fuzzing::is_random_access;

use crate::input::{as_piece, choice, piece};

const CODECS: [VideoCodec; 2] = [VideoCodec::H264, VideoCodec::Hevc];
/// Bytes of a start code.
const CODE: [u8; 4] = [0, 0, 0, 1];

/// Inspects a packet. The input is the codec, the extradata with their length, and the packet.
///
/// # Panics
/// Panics if padding changes what is found.
pub fn check(data: &[u8]) {
    let Some((codec, rest)) = choice(data, CODECS.len()) else {
        return;
    };
    let Some((extradata, packet)) = piece(rest) else {
        return;
    };
    let codec = CODECS[codec];
    let found = is_random_access(codec, extradata, packet);
    // Padding after the last unit says nothing, and start codes are what is looked at without extradata.
    if extradata.is_empty() {
        let padded = [packet, &[0, 0, 0]].concat();
        assert_eq!(
            is_random_access(codec, &[], &padded),
            found,
            "padding is taken for a unit"
        );
    }
}

/// A parameter set and a picture, with lengths and with start codes.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (codec, units) in [
        (0, [&[0x67, 100, 0, 31][..], &[0x68, 0xee], &[0x65, 7, 7]]),
        (0, [&[0x06, 9][..], &[0x41, 7], &[0x0a]]),
        (1, [&[0x40, 1, 12][..], &[0x42, 1, 1], &[0x26, 1, 7]]),
        (1, [&[0x2a, 1, 7][..], &[0x10, 1, 7], &[0x24, 1, 7]]),
    ] {
        let coded = units.map(|unit| [&CODE, unit].concat()).concat();
        let prefixed: Vec<u8> = units
            .iter()
            .flat_map(|unit| {
                let length = u16::try_from(unit.len()).unwrap_or(u16::MAX);
                [&length.to_be_bytes(), *unit].concat()
            })
            .collect();
        // Lengths take two bytes.
        let avcc = [&[1, 100, 0, 31, 0xfd, 0xe1][..], units[0]].concat();
        let hvcc = [&[1][..], &[0; 20], &[0xfd], units[0]].concat();
        let configuration = if codec == 0 { avcc } else { hvcc };
        for (extradata, packet) in [
            (&[][..], &coded),
            (&coded, &coded),
            (&configuration[..], &prefixed),
        ] {
            seeds.push([&[codec][..], &as_piece(extradata), packet].concat());
        }
    }
    seeds
}
