//! Inspects the types of the NAL units in one packet of H.264 or HEVC, which is enough to find where decoding
//! may start. The scanner of source videos calls it for each packet.

use super::VideoCodec;

/// How the NAL units in a track's packets are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each unit follows its length, which takes this number of bytes (`avcC`, `hvcC`).
    Length(usize),
    /// Each unit follows a start code.
    StartCode,
}

impl Framing {
    /// Reads the framing from the track's extradata.
    pub(super) fn of(codec: VideoCodec, extradata: &[u8]) -> Self {
        let at = match codec {
            VideoCodec::H264 => 4,
            VideoCodec::Hevc => 21,
        };
        match extradata {
            [1, ..] if extradata.len() > at => Self::Length(usize::from(extradata[at] & 3) + 1),
            _ => Self::StartCode,
        }
    }
}

/// What a packet's picture means for random access. The order of the variants matters: a packet has the
/// highest kind of its units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// A picture at which decoding cannot start.
    #[default]
    Other,
    /// An HEVC RASL picture, which may need pictures from before its random access point.
    SkippedLeading,
    /// An HEVC CRA picture, which is a random access point whose leading pictures may need earlier ones.
    Clean,
    /// An HEVC BLA picture, which is a random access point whose RASL pictures can never be decoded.
    BrokenLink,
    /// An H.264 or HEVC IDR picture: no later picture needs an earlier one.
    Idr,
}

impl Access {
    /// Whether decoding may start here: neither this picture nor any that follows it in output order needs an
    /// earlier one.
    pub(super) fn is_random(self) -> bool {
        match self {
            Self::Clean | Self::BrokenLink | Self::Idr => true,
            Self::Other | Self::SkippedLeading => false,
        }
    }
}

/// The properties of one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) access: Access,
    /// Whether the packet carries parameter sets that are not in the extradata.
    pub(super) own_parameter_sets: bool,
    /// Whether the coded video sequence ends after this packet.
    pub(super) ends_sequence: bool,
}

/// Inspects the NAL units of one packet.
pub(super) fn inspect(codec: VideoCodec, framing: Framing, extradata: &[u8], packet: &[u8]) -> Unit {
    let mut unit = Unit::default();
    let mut visit = |nal: &[u8]| {
        let Some(&head) = nal.first() else { return };
        let is_set = match codec {
            VideoCodec::H264 => {
                let kind = head & 0x1f;
                if kind == 5 {
                    unit.access = Access::Idr;
                }
                unit.ends_sequence |= matches!(kind, 10 | 11);
                matches!(kind, 7 | 8)
            }
            VideoCodec::Hevc => {
                let kind = (head >> 1) & 0x3f;
                let access = match kind {
                    8 | 9 => Access::SkippedLeading,
                    16..=18 => Access::BrokenLink,
                    19 | 20 => Access::Idr,
                    21 => Access::Clean,
                    _ => Access::Other,
                };
                unit.access = unit.access.max(access);
                unit.ends_sequence |= matches!(kind, 36 | 37);
                matches!(kind, 32..=34)
            }
        };
        if is_set && !contains(extradata, nal) {
            unit.own_parameter_sets = true;
        }
    };
    match framing {
        Framing::Length(size) => length_prefixed(packet, size, &mut visit),
        Framing::StartCode => start_coded(packet, &mut visit),
    }
    unit
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn length_prefixed(mut rest: &[u8], size: usize, visit: &mut impl FnMut(&[u8])) {
    while rest.len() > size {
        let (prefix, tail) = rest.split_at(size);
        let length = prefix.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        let length = length.min(tail.len());
        visit(&tail[..length]);
        rest = &tail[length..];
    }
}

fn start_coded(packet: &[u8], visit: &mut impl FnMut(&[u8])) {
    let mut start = None;
    let mut at = 0;
    while at + 3 <= packet.len() {
        if packet[at..at + 3] == [0, 0, 1] {
            if let Some(start) = start {
                visit(trim_zeros(&packet[start..at]));
            }
            start = Some(at + 3);
            at += 3;
        } else {
            at += 1;
        }
    }
    if let Some(start) = start {
        visit(trim_zeros(&packet[start..]));
    }
}

/// Removes zero bytes from the end of a unit; they belong to the next start code.
fn trim_zeros(nal: &[u8]) -> &[u8] {
    let end = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &nal[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_show_the_same_units() {
        // H.264: a parameter set, an SEI, an IDR slice.
        let units: [&[u8]; 3] = [&[0x67, 1, 2], &[0x06, 9], &[0x65, 7, 7, 7]];
        let mut prefixed = Vec::new();
        let mut coded = Vec::new();
        for unit in units {
            prefixed.extend([0, 0, 0, u8::try_from(unit.len()).unwrap()]);
            prefixed.extend(unit);
            coded.extend([0, 0, 0, 1]);
            coded.extend(unit);
        }
        let expected = Unit {
            access: Access::Idr,
            own_parameter_sets: true,
            ..Unit::default()
        };
        let avcc = [1, 100, 0, 31, 0xff, 0xe1];
        assert_eq!(Framing::of(VideoCodec::H264, &avcc), Framing::Length(4));
        assert_eq!(
            inspect(VideoCodec::H264, Framing::Length(4), &[], &prefixed),
            expected
        );
        assert_eq!(Framing::of(VideoCodec::H264, &[0, 0, 0, 1]), Framing::StartCode);
        assert_eq!(
            inspect(VideoCodec::H264, Framing::StartCode, &[], &coded),
            expected
        );
        let known = inspect(VideoCodec::H264, Framing::StartCode, &[5, 0x67, 1, 2, 5], &coded);
        assert!(!known.own_parameter_sets, "the set stands in the extradata");
    }

    #[test]
    fn broken_lengths_end_the_walk() {
        let unit = inspect(
            VideoCodec::Hevc,
            Framing::Length(4),
            &[],
            &[0xff, 0xff, 0xff, 0xff, 40, 1],
        );
        assert_eq!(unit.access, Access::Idr, "the unit is clipped to the packet");
        assert_eq!(
            inspect(VideoCodec::Hevc, Framing::Length(4), &[], &[0, 0]),
            Unit::default()
        );
    }
}
