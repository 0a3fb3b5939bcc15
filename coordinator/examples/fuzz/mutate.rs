//! Deterministic damage to bytes: equal numbers give equal damage.

/// The `SplitMix64` generator: a whole sequence follows from its first number.
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of input `index` of the run `seed`.
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, or 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Numbers at which lengths, counts and time stamps go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Damages `bytes` in one to `most` places; `other` gives bytes to splice in.
pub(crate) fn mutate(bytes: &mut Vec<u8>, other: &[u8], most: usize, random: &mut Random) {
    for _ in 0..=random.below(most) {
        // Headers stand at the beginning and the end, and decide more than the data between them.
        let (start, room) = match random.below(4) {
            0 => (0, bytes.len().min(512)),
            1 => (bytes.len().saturating_sub(2048), bytes.len().min(2048)),
            _ => (0, bytes.len()),
        };
        let at = start + random.below(room);
        let length = 1 + random.below(64);
        let end = (at + length).min(bytes.len());
        let byte = u8::try_from(random.below(256)).unwrap_or(0);
        match random.below(10) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = byte,
            3 => overwrite(bytes, at, &number(random)),
            4 => overwrite(bytes, at, &vec![byte; length]),
            5 => drop(bytes.splice(at..at, number(random))),
            6 => drop(bytes.drain(at..end)),
            7 => {
                let copy = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, copy));
            }
            8 => {
                let from = random.below(other.len());
                let piece = other[from..(from + length).min(other.len())].to_vec();
                overwrite(bytes, at, &piece);
            }
            // A cut costs everything behind it, so it is rare.
            _ if random.below(16) == 0 => bytes.truncate(at),
            _ => overwrite(bytes, at, &number(random)),
        }
    }
}

/// Returns a number at an edge, in either byte order.
fn number(random: &mut Random) -> Vec<u8> {
    let value = *random.pick(&EDGES);
    let narrow = u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX);
    match random.below(4) {
        0 => narrow.to_be_bytes().to_vec(),
        1 => narrow.to_le_bytes().to_vec(),
        2 => value.to_be_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(with) {
        *to = *from;
    }
}
