//! Splits an input into the choices that a target makes and the bytes that it reads.

/// Takes the first byte as a number below `bound`, and returns it with the rest.
pub(crate) fn choice(data: &[u8], bound: usize) -> Option<(usize, &[u8])> {
    let (&first, rest) = data.split_first()?;
    Some((usize::from(first) % bound, rest))
}

/// Takes a little-endian number of two bytes, and as many bytes as it says, or as there are.
pub(crate) fn piece(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk()?;
    Some(rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len())))
}

/// Makes what [`piece`] takes.
pub(crate) fn as_piece(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_le_bytes(), bytes].concat()
}
