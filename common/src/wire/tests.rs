use super::*;
use serde::Deserialize;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Ping {
    name: String,
    values: Vec<u64>,
}

impl Message for Ping {
    const KIND: u8 = 250;
}

#[derive(Debug, Serialize, Deserialize)]
struct Short(u8);

impl Message for Short {
    const KIND: u8 = 250;
}

#[derive(Debug, Serialize, Deserialize)]
struct Other(u8);

impl Message for Other {
    const KIND: u8 = 251;
}

fn ping() -> Ping {
    Ping {
        name: "x".into(),
        values: vec![1, u64::MAX],
    }
}

/// Replaces the checksum by the right one after bytes were changed on purpose.
fn reseal(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() - CHECKSUM_BYTES);
    let checksum = crc32c::crc32c(bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
}

#[test]
fn message_round_trips() {
    assert_eq!(decode::<Ping>(&encode(&ping()).unwrap()).unwrap(), ping());
}

#[test]
fn every_flipped_bit_is_seen() {
    let bytes = encode(&ping()).unwrap();
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1 << bit;
            assert!(decode::<Ping>(&damaged).is_err(), "byte {index} bit {bit}");
        }
    }
}

#[test]
fn truncation_is_seen() {
    let bytes = encode(&ping()).unwrap();
    for len in 0..bytes.len() {
        assert!(decode::<Ping>(&bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn other_versions_kinds_and_leftovers_are_named() {
    let mut newer = encode(&ping()).unwrap();
    newer[4] = 0xff;
    reseal(&mut newer);
    assert!(matches!(
        decode::<Ping>(&newer),
        Err(WireError::UnknownSchema { found: 0xff })
    ));
    assert!(matches!(
        decode::<Other>(&encode(&ping()).unwrap()),
        Err(WireError::WrongKind { .. })
    ));
    assert!(matches!(
        decode::<Short>(&encode(&ping()).unwrap()),
        Err(WireError::TrailingBytes { .. })
    ));
}

#[test]
fn hostile_length_is_an_error_not_an_allocation() {
    let mut bytes = encode(&ping()).unwrap();
    // The name's length becomes a varint u64 of 2^63.
    let tail = [&[253_u8][..], &(1_u64 << 63).to_le_bytes()].concat();
    bytes.truncate(HEADER_BYTES);
    bytes.extend_from_slice(&tail);
    bytes.extend_from_slice(&[0; CHECKSUM_BYTES]);
    reseal(&mut bytes);
    assert!(matches!(decode::<Ping>(&bytes), Err(WireError::Decode(_))));
}

#[test]
fn a_range_of_frames_that_runs_backwards_is_refused() {
    use crate::time::FrameRange;
    use crate::wire::media::MediaReply;
    let crops = |start, end| MediaReply::Crops {
        window: FrameRange { start, end },
        faces: vec![1],
    };
    assert_eq!(
        decode::<MediaReply>(&encode(&crops(16, 32)).unwrap()).unwrap(),
        crops(16, 32)
    );
    let refused = decode::<MediaReply>(&encode(&crops(32, 16)).unwrap()).unwrap_err();
    let cause = crate::error::one_line(&refused);
    assert!(cause.contains("32..16 runs backwards"), "{cause}");
}

#[test]
fn a_length_is_believed_up_to_what_the_payload_can_hold() {
    // The name's length becomes 64 KiB, of which nothing is there.
    let mut bytes = encode(&ping()).unwrap();
    bytes.truncate(HEADER_BYTES);
    bytes.extend_from_slice(&[251, 0, 0]);
    bytes.extend_from_slice(&[1; 2 + CHECKSUM_BYTES]);
    bytes[HEADER_BYTES + 1..][..2].copy_from_slice(&0xffff_u16.to_le_bytes());
    reseal(&mut bytes);
    let error = decode::<Ping>(&bytes).unwrap_err();
    assert!(
        matches!(
            &error,
            WireError::Decode(bincode::error::DecodeError::LimitExceeded)
        ),
        "{error:?}"
    );
    // Numbers of eight bytes in one byte each are the most that a payload can hold.
    for count in [1, 500, 4000, 70_000, 2_000_000] {
        let full = Ping {
            name: String::new(),
            values: vec![1; count],
        };
        assert_eq!(decode::<Ping>(&encode(&full).unwrap()).unwrap(), full, "{count}");
    }
}
