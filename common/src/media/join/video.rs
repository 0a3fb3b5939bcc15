//! Reads the video packets of all segments as one sequence whose timestamps are output frames.

use std::path::Path;

use ffmpeg_next::codec::Parameters;
use ffmpeg_next::format::context;
use ffmpeg_next::{Packet, Rational, codec, media};

use super::request::JoinRequest;
use crate::media::{MediaError, container, ffi};

/// The video packets of the final file.
pub(super) struct VideoFeed<'a> {
    request: &'a JoinRequest<'a>,
    rate: Rational,
    parameters: Parameters,
    /// Reorder delay of the whole file, in frames.
    delay: i64,
    /// Decode index of the next packet.
    decode_index: i64,
    /// Segment that is being read.
    open: Option<OpenSegment<'a>>,
    /// Number of segments that were opened.
    opened: usize,
}

/// A segment that is being read.
struct OpenSegment<'a> {
    path: &'a Path,
    input: context::Input,
    time_base: Rational,
    codec_header: Vec<u8>,
}

impl<'a> VideoFeed<'a> {
    /// Reads all segments once, without decoding, and checks that they can be joined.
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
            if segment.codec_header != header {
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
            let Some((lowest, highest)) = numbers.first().zip(numbers.last()) else {
                return Err(MediaError::rejected(path, "it has no frames"));
            };
            if !numbers.iter().copied().eq(next..end) {
                let cause = format!(
                    "its {} frames from {lowest} to {highest} do not continue at {next}",
                    numbers.len()
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
            decode_index: 0,
            open: None,
            opened: 0,
        })
    }

    pub(super) fn parameters(&self) -> Parameters {
        container::portable_parameters(&self.parameters, None)
    }

    /// Returns the next packet in decode order, with PTS, DTS and duration in frames, or `None` at the end.
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
            packet.set_dts(Some(self.decode_index - self.delay));
            packet.set_duration(1);
            self.decode_index += 1;
            return Ok(Some(packet));
        }
    }
}

impl<'a> OpenSegment<'a> {
    fn open(path: &'a Path, request: &JoinRequest<'_>) -> Result<Self, MediaError> {
        let input = container::open_segment_quickly(path)?;
        let (time_base, facts) = {
            let track = input
                .streams()
                .best(media::Type::Video)
                .filter(|track| input.nb_streams() == 1 && track.parameters().id() == codec::Id::H264)
                .ok_or_else(|| MediaError::rejected(path, "it is not a single H.264 track"))?;
            (track.time_base(), ffi::video_facts(&track))
        };
        let (width, height) = (request.picture.width, request.picture.height);
        if (facts.width, facts.height) != (width, height) {
            let cause = format!(
                "its pictures are {}x{}, not {width}x{height}",
                facts.width, facts.height
            );
            return Err(MediaError::rejected(path, cause));
        }
        Ok(Self {
            path,
            input,
            time_base,
            codec_header: facts.extradata,
        })
    }

    /// Reads the next packet and the number of its output frame; returns `None` at the end of the segment.
    fn next(&mut self, rate: Rational) -> Result<Option<(Packet, u64)>, MediaError> {
        let Some(packet) = container::read_packet(&mut self.input, self.path)? else {
            return Ok(None);
        };
        let rejected = |cause: String| MediaError::rejected(self.path, cause);
        let pts = packet
            .pts()
            .ok_or_else(|| rejected("a packet has no timestamp".to_owned()))?;
        let number = container::frame_number(pts, self.time_base, rate).ok_or_else(|| {
            rejected(format!(
                "timestamp {pts} is not on the grid of {rate} frames per second"
            ))
        })?;
        Ok(Some((packet, number)))
    }
}

/// Reads the parameters of the first segment and its codec header. The pictures are analysed, because only
/// they have the colour tags and the aspect ratio.
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
