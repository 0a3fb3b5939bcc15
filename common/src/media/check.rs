//! Decodes a source segment completely when it has just been cut, beside the cutting of the next ones, to
//! find out whether a worker can use it as it is.

use std::path::Path;

use ffmpeg_next::frame::Video;

use super::MediaError;
use super::decode::TolerantDecoder;
use super::index::VideoIndex;
use super::look::Look;
use super::packets::PacketReader;
use crate::frame::PictureFormat;

/// What decoding a whole segment showed.
pub(super) struct Findings {
    /// Whether every frame has an undamaged picture.
    pub(super) is_sound: bool,
    /// The forms of the pictures, in order, without repeats.
    pub(super) looks: Vec<Look>,
    /// The last picture of a sound segment.
    pub(super) last: Option<Video>,
}

/// Decodes the segment at `path`, which holds the source frames of `index` from `first` on, up to the first
/// damage.
pub(super) fn check_segment(
    path: &Path,
    index: &VideoIndex,
    first: u64,
    frames: u64,
    format: &PictureFormat,
) -> Result<Findings, MediaError> {
    let read = |error| MediaError::io("read", path)(error);
    let mut packets = PacketReader::open(path).map_err(read)?;
    let opened = TolerantDecoder::open(packets.header(), &index.path);
    let mut decoder =
        opened.map_err(|error| index.refusal(first, &format!("no decoder takes its video ({error})")))?;
    let mut expected = index.pts_of(first, frames).iter();
    let mut findings = Findings {
        is_sound: false,
        looks: Vec::new(),
        last: None,
    };
    let mut is_over = false;
    while !is_over {
        if let Some(packet) = packets.next().map_err(read)? {
            decoder.send(packet.pts, packet.key, &packet.data)?;
        } else {
            is_over = true;
            decoder.send_end()?;
        }
        while let Some(decoded) = decoder.receive()? {
            let Some(pts) = decoded.picture.pts() else {
                continue;
            };
            if decoded.is_damaged || expected.next() != Some(&pts) {
                return Ok(findings);
            }
            let look = Look::of(&decoded.picture, format);
            if findings.looks.last() != Some(&look) {
                findings.looks.push(look);
            }
            findings.last = Some(decoded.picture);
        }
        if decoder.has_lost_packets() {
            return Ok(findings);
        }
    }
    findings.is_sound = expected.next().is_none();
    Ok(findings)
}
