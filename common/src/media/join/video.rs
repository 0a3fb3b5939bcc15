//! Video packets of all segments in one sequence, timed in output frames.

use std::path::Path;

use ffmpeg_next::codec::Parameters;
use ffmpeg_next::format::context;
use ffmpeg_next::{Packet, Rational, codec, media};

use super::request::JoinRequest;
use crate::media::{MediaError, container, ffi};

pub(super) struct VideoFeed<'a> {
    request: &'a JoinRequest<'a>,
    rate: Rational,
    parameters: Parameters,
    /// Reorder delay of the whole file, in frames.
    delay: i64,
    /// Packets given so far, which is the decode index of the next.
    given: i64,
    /// Segment being read, and the number of those opened.
    open: Option<OpenSegment<'a>>,
    opened: usize,
}

struct OpenSegment<'a> {
    path: &'a Path,
    input: context::Input,
    time_base: Rational,
}

impl<'a> VideoFeed<'a> {
    /// Reads through all segments once (without decoding) to see that they fit together.
    pub(super) fn open(request: &'a JoinRequest<'a>, rate: Rational) -> Result<Self, MediaError> {
        let Some(first) = request.segments.first() else {
            return Err(MediaError::rejected(
                request.output,
                "there is no segment to join",
            ));
        };
        let (parameters, header) = first_parameters(first)?;
        let mut next = 0_u64;
        let mut delay = 0_i64;
        for path in request.segments {
            let mut segment = OpenSegment::open(path, request)?;
            if segment.codec_header() != header {
                let cause = format!("its codec header differs from that of `{}`", first.display());
                return Err(MediaError::rejected(path, cause));
            }
            let mut numbers = Vec::new();
            while let Some((packet, number)) = segment.next(rate)? {
                if numbers.is_empty() && !packet.is_key() {
                    return Err(MediaError::rejected(path, "it does not start with a keyframe"));
                }
                let decode_index = next + numbers.len() as u64;
                delay = delay.max(decode_index.saturating_sub(number).try_into().unwrap_or(i64::MAX));
                numbers.push(number);
            }
            numbers.sort_unstable();
            let end = next + numbers.len() as u64;
            if numbers.is_empty() || !numbers.iter().copied().eq(next..end) {
                let cause = format!(
                    "its frames ({} from {:?} to {:?}) do not continue at {next}",
                    numbers.len(),
                    numbers.first(),
                    numbers.last()
                );
                return Err(MediaError::rejected(path, cause));
            }
            next = end;
        }
        if next != request.frames {
            let cause = format!("the segments hold {next} frames instead of {}", request.frames);
            return Err(MediaError::rejected(request.output, cause));
        }
        Ok(Self {
            request,
            rate,
            parameters,
            delay,
            given: 0,
            open: None,
            opened: 0,
        })
    }

    pub(super) fn parameters(&self) -> Parameters {
        container::portable_parameters(&self.parameters, None)
    }

    /// The next packet in decode order; PTS, DTS and duration in frames.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, MediaError> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.request.segments.get(self.opened) else {
                    return Ok(None);
                };
                self.open = Some(OpenSegment::open(path, self.request)?);
                self.opened += 1;
            }
            let Some(segment) = &mut self.open else { continue };
            let Some((mut packet, number)) = segment.next(self.rate)? else {
                self.open = None;
                continue;
            };
            packet.set_pts(i64::try_from(number).ok());
            packet.set_dts(Some(self.given - self.delay));
            packet.set_duration(1);
            self.given += 1;
            return Ok(Some(packet));
        }
    }
}

impl<'a> OpenSegment<'a> {
    fn open(path: &'a Path, request: &JoinRequest<'_>) -> Result<Self, MediaError> {
        let input = container::open_segment_quickly(path)?;
        let (time_base, size) = {
            let track = input
                .streams()
                .best(media::Type::Video)
                .filter(|track| input.nb_streams() == 1 && track.parameters().id() == codec::Id::H264)
                .ok_or_else(|| MediaError::rejected(path, "it is not a single H.264 track"))?;
            (track.time_base(), container::picture_size(&track.parameters()))
        };
        let wanted = (request.picture.width, request.picture.height);
        if size != wanted {
            let cause = format!(
                "its pictures are {}x{}, not {}x{}",
                size.0, size.1, wanted.0, wanted.1
            );
            return Err(MediaError::rejected(path, cause));
        }
        Ok(Self {
            path,
            input,
            time_base,
        })
    }

    fn codec_header(&self) -> Vec<u8> {
        self.input
            .stream(0)
            .map_or_else(Vec::new, |track| ffi::codec_header(&track.parameters()))
    }

    /// The next packet and the output frame that it holds.
    fn next(&mut self, rate: Rational) -> Result<Option<(Packet, u64)>, MediaError> {
        let Some(packet) = container::read_packet(&mut self.input, self.path)? else {
            return Ok(None);
        };
        let number = packet
            .pts()
            .and_then(|pts| container::frame_number(pts, self.time_base, rate))
            .ok_or_else(|| {
                let cause = format!(
                    "timestamp {:?} is not on the grid of {rate} frames per second",
                    packet.pts()
                );
                MediaError::rejected(self.path, cause)
            })?;
        Ok(Some((packet, number)))
    }
}

/// Parameters with colour and aspect, which only a look into the pictures gives, and the codec header.
fn first_parameters(path: &Path) -> Result<(Parameters, Vec<u8>), MediaError> {
    let input = container::open_input(path)?;
    let track = input
        .streams()
        .best(media::Type::Video)
        .ok_or_else(|| MediaError::rejected(path, "it has no video track"))?;
    let parameters = container::portable_parameters(&track.parameters(), None);
    let header = ffi::codec_header(&parameters);
    Ok((parameters, header))
}
