//! Readers of bytes from media files that are private otherwise, for the fuzz targets `nal` and
//! `sound_header`.

use super::nal::{Framing, inspect};
use super::{VideoCodec, sound};

/// Inspects the NAL units of a packet as the scanner of source videos does, and returns whether decoding may
/// start there.
pub fn is_random_access(codec: VideoCodec, extradata: &[u8], packet: &[u8]) -> bool {
    let framing = Framing::of(codec, extradata);
    inspect(codec, framing, extradata, packet).access.is_random()
}

/// Returns the beginning of a sound file of `size` bytes with true lengths, or `None` if it is used as it is.
pub fn true_header(header: Vec<u8>, size: u64) -> Option<Vec<u8>> {
    sound::true_header(header, size)
}
