//! Gives each source frame exactly one picture of the job's form, whatever the decoder returns. Damage is
//! resolved here once, when the video is cut, so that workers never meet it and the result does not depend on
//! chunks:
//! - a picture whose damage FFmpeg conceals is used as it is;
//! - a frame without a picture repeats the picture before it; the frames before the first picture show that
//!   one;
//! - a picture of another size, pixel format or colour is converted to the form of the first one.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::frame::Video;

use super::MediaError;
use super::decode::{Decoded, TolerantDecoder};
use super::index::VideoIndex;
use super::look::{Converter, Look};
use super::scanner::Scanner;
use crate::frame::PictureFormat;
use crate::time::FrameRange;
use crate::wire::job::{DefectKind, SourceDefect};

/// The state that passes from segment to segment while a video is cut.
pub(super) struct Restoration<'a> {
    index: &'a VideoIndex,
    pub(super) format: &'a PictureFormat,
    /// Number of source frames that the job needs. Faults of later frames are noted, for another job that takes over
    /// the segment, but do not count towards a refusal.
    wanted: u64,
    /// The form of every picture of the job, once the first picture is known.
    form: Option<Look>,
    /// The last picture, in the form of the job.
    pub(super) last: Option<Video>,
    converter: Option<Converter>,
    /// The defects that no segment has been handed on with.
    defects: Vec<(DefectKind, FrameRange)>,
    /// The first frame without an undamaged picture, if there is one.
    first_fault: Option<u64>,
    /// Number of needed frames so far that had no picture.
    lost: u64,
    /// Number of needed frames so far that had an undamaged or a concealed picture.
    seen: [u64; 2],
}

/// A share of the needed frames, one in this number, must have an undamaged picture.
const UNDAMAGED_SHARE: u64 = 10;

impl<'a> Restoration<'a> {
    pub(super) fn new(index: &'a VideoIndex, format: &'a PictureFormat, wanted: u64) -> Self {
        Self {
            index,
            format,
            wanted,
            form: None,
            last: None,
            converter: None,
            defects: Vec::new(),
            first_fault: None,
            lost: 0,
            seen: [0; 2],
        }
    }

    /// Returns the form of every picture of the job; `first` is that of the first picture.
    pub(super) fn form(&mut self, first: Look) -> Look {
        let format = self.format;
        *self.form.get_or_insert_with(|| first.of_job(format))
    }

    /// Notes that the source frames `first..first + frames` need no restoration; `last` is their last picture.
    pub(super) fn pass(&mut self, first: u64, frames: u64, last: Option<Video>) {
        self.seen[0] += self.wanted.min(first + frames).saturating_sub(first);
        self.last = last.or(self.last.take());
    }

    /// Returns the picture of source frame `frame` in the form of the job.
    pub(super) fn restore(
        &mut self,
        frame: u64,
        mut picture: Video,
        is_damaged: bool,
    ) -> Result<Video, MediaError> {
        if frame < self.wanted {
            self.seen[usize::from(is_damaged)] += 1;
        }
        if is_damaged {
            self.note(DefectKind::Concealed, frame);
        }
        let look = Look::of(&picture, self.format);
        let form = self.form(look);
        if look == form {
            return Ok(picture);
        }
        self.note(DefectKind::Converted, frame);
        self.convert(frame, &mut picture, look, form)
    }

    /// Decodes the video from its start to the first picture, and returns that in the form of the job.
    pub(super) fn first_picture(&mut self) -> Result<Video, MediaError> {
        let failed = |error| {
            self.index
                .refusal(0, &format!("no decoder takes its video ({error})"))
        };
        let mut scanner = Scanner::open(&self.index.path, self.index.codec)?;
        let mut decoder =
            TolerantDecoder::open(&self.index.header_at(0), &self.index.path).map_err(failed)?;
        while let Some(packet) = scanner.next()? {
            decoder.send(packet.pts, packet.key, packet.data)?;
            while let Some(Decoded { mut picture, .. }) = decoder.receive()? {
                let number = picture
                    .pts()
                    .and_then(|pts| self.index.pts.binary_search(&pts).ok());
                let Some(number) = number else { continue };
                let look = Look::of(&picture, self.format);
                let form = self.form(look);
                return if look == form {
                    Ok(picture)
                } else {
                    self.convert(number as u64, &mut picture, look, form)
                };
            }
        }
        Err(self.undecodable())
    }

    fn convert(
        &mut self,
        frame: u64,
        picture: &mut Video,
        look: Look,
        form: Look,
    ) -> Result<Video, MediaError> {
        let failed = |error: ffmpeg::Error| {
            self.index
                .refusal(frame, &format!("its picture cannot be converted ({error})"))
        };
        let converter = match self.converter.take() {
            Some(converter) if converter.is_between(look, form) => Ok(converter),
            _ => Converter::new(look, form),
        };
        let mut converter = converter.map_err(failed)?;
        let result = converter.convert(picture).map_err(failed)?;
        self.converter = Some(converter);
        Ok(result)
    }

    /// Notes that source frame `frame` has no picture and repeats another one.
    ///
    /// # Errors
    /// [`MediaError::BadInput`] if most of the video has no picture.
    pub(super) fn repeat(&mut self, frame: u64) -> Result<(), MediaError> {
        self.note(DefectKind::Repeated, frame);
        self.lost += u64::from(frame < self.wanted);
        if 2 * self.lost > self.wanted {
            return Err(self.undecodable());
        }
        Ok(())
    }

    /// Takes out the stretches before source frame `end` that are not shown as the source has them, in order.
    /// A stretch that goes on from there is divided.
    pub(super) fn defects_before(&mut self, end: u64) -> Vec<SourceDefect> {
        let mut before = Vec::new();
        self.defects.retain_mut(|(kind, frames)| {
            if frames.start < end {
                let part = FrameRange::new(frames.start, frames.end.min(end));
                before.push(SourceDefect {
                    kind: *kind,
                    frames: part,
                    start_ms: self.index.milliseconds(part.start),
                    end_ms: self.index.milliseconds(part.end),
                });
                frames.start = part.end;
            }
            frames.start < frames.end
        });
        before.sort_by_key(|defect| (defect.frames.start, defect.kind));
        before
    }

    /// Checks the share of the needed frames that are undamaged.
    ///
    /// # Errors
    /// [`MediaError::BadInput`] if it is too small.
    pub(super) fn finish(self) -> Result<(), MediaError> {
        let [undamaged, concealed] = self.seen;
        if concealed > 0 && undamaged * UNDAMAGED_SHARE < self.wanted {
            return Err(self.undecodable());
        }
        Ok(())
    }

    /// The error of a video of which too little can be decoded.
    pub(super) fn undecodable(&self) -> MediaError {
        let first = self.first_fault.unwrap_or(0);
        let cause = format!(
            "its video cannot be decoded from here on: {} of the first {} frames have no picture, and {} a damaged one; \
             copy or download the file again",
            self.lost,
            self.lost + self.seen[0] + self.seen[1],
            self.seen[1],
        );
        self.index.refusal(first, &cause)
    }

    fn note(&mut self, kind: DefectKind, frame: u64) {
        if frame < self.wanted && kind != DefectKind::Converted {
            self.first_fault = Some(self.first_fault.map_or(frame, |first| first.min(frame)));
        }
        // The stretches of the other kinds may lie between, but only one of each can still grow.
        let open = self.defects.iter_mut().rev().take(DefectKind::ALL.len());
        let mut open = open.filter(|(known, frames)| *known == kind && frames.end == frame);
        match open.next() {
            Some((_, frames)) => frames.end += 1,
            None => self.defects.push((kind, FrameRange::new(frame, frame + 1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use ffmpeg::format::Pixel;

    use super::*;
    use crate::error::one_line;
    use crate::frame::Colour;
    use crate::media::VideoCodec;
    use crate::time::TimeBase;

    const FORMAT: PictureFormat = PictureFormat {
        width: 64,
        height: 64,
        colour: Colour::BT709,
        sample_aspect: (1, 1),
    };

    /// Runs a restoration of a video of 200 frames, of which the first 100 are needed.
    fn restored<T>(steps: impl FnOnce(Restoration<'_>) -> T) -> T {
        let index = VideoIndex {
            path: "talk.mp4".into(),
            codec: VideoCodec::H264,
            reorder: 0,
            extradata_changes: Vec::new(),
            cuts: Vec::new(),
            packets: 200,
            pts: (0..200).collect(),
            last_duration: None,
            time_base: TimeBase { num: 1, den: 25 },
        };
        steps(Restoration::new(&index, &FORMAT, 100))
    }

    fn picture() -> Video {
        Video::new(Pixel::YUV420P, 64, 64)
    }

    #[test]
    fn a_tenth_of_the_needed_frames_must_be_undamaged() {
        for (undamaged, is_usable) in [(10, true), (9, false)] {
            let result = restored(|mut restoration| {
                restoration.pass(0, undamaged, None);
                // The frames after the hundredth do not matter.
                for frame in undamaged..200 {
                    restoration.restore(frame, picture(), frame < 100).unwrap();
                }
                restoration.finish()
            });
            assert_eq!(result.is_ok(), is_usable, "{undamaged}");
            if let Err(error) = result {
                assert!(
                    one_line(&error).contains("at 0.360 s (frame 9)"),
                    "{}",
                    one_line(&error)
                );
            }
        }
        // Whole segments count up to the last needed frame.
        restored(|mut restoration| {
            restoration.restore(0, picture(), true).unwrap();
            restoration.pass(1, 199, None);
            restoration.finish().unwrap();
        });
    }

    #[test]
    fn half_of_the_needed_frames_may_have_no_picture() {
        restored(|mut restoration| {
            for frame in 50..200 {
                restoration.repeat(frame).unwrap();
            }
            let defects = restoration.defects_before(200);
            assert_eq!(defects.len(), 1, "{defects:?}");
            let noted = FrameRange::new(50, 200);
            assert_eq!(defects[0].frames, noted, "those of other jobs too");
            assert!(restoration.repeat(49).is_err());
        });
    }

    #[test]
    fn the_last_picture_of_a_sound_segment_is_repeated_after_it() {
        restored(|mut restoration| {
            let mut last = picture();
            last.data_mut(0).fill(7);
            restoration.pass(0, 10, Some(last));
            restoration.pass(10, 10, None);
            let kept = restoration.last.as_ref().map(|last| last.data(0)[0]);
            assert_eq!(kept, Some(7));
        });
    }
}
