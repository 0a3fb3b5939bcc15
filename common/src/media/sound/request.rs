//! What is decoded, and how it is laid on the timeline.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ffmpeg_next::Rational;

use super::track::TrackChoice;
use crate::media::container::Container;
use crate::time::TimeBase;

/// The sound that is decoded by [`decode_sound`](super::decode_sound), and its place.
#[derive(Clone, Copy, Debug)]
pub struct SoundRequest<'a> {
    /// The file that the user gave.
    pub path: &'a Path,
    /// Which of its audio tracks is used.
    pub track: &'a TrackChoice,
    /// What time 0 of the output is in the file.
    pub origin: SoundOrigin,
    /// How much later the sound is played.
    pub offset: AudioOffset,
    /// Container of the output.
    pub container: Container,
    /// Whether the sound is cut at the exact sample, which requires encoding, instead of within its last packet.
    pub exact: bool,
    /// An existing directory for the decoded samples.
    pub scratch: &'a Path,
}

/// What time 0 of the output is in the file of the sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundOrigin {
    /// The start of the file: of its first track, or time 0 in MP4 and Matroska, which count from there.
    Container,
    /// The first picture, because the sound is taken from the video file itself.
    Picture {
        /// Time stamp of the picture.
        pts: i64,
        /// Unit of the time stamp.
        time_base: TimeBase,
    },
}

impl SoundOrigin {
    /// Returns the time stamp of the first picture with its unit, if the sound is placed by it.
    pub(super) fn picture(self) -> Option<(i64, Rational)> {
        let Self::Picture { pts, time_base } = self else {
            return None;
        };
        let part = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        Some((pts, Rational(part(time_base.num), part(time_base.den))))
    }
}

/// How much later the sound is played than its file says; negative if earlier. It is written in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudioOffset {
    microseconds: i64,
}

/// The text is not an offset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an offset in seconds such as 0.25 or -1.5, up to an hour with at most 6 decimal places"
)]
pub struct InvalidOffset(String);

impl AudioOffset {
    const LIMIT_US: i64 = 3_600_000_000;

    /// Returns the offset in microseconds.
    pub fn microseconds(self) -> i64 {
        self.microseconds
    }
}

impl FromStr for AudioOffset {
    type Err = InvalidOffset;

    fn from_str(text: &str) -> Result<Self, InvalidOffset> {
        let parse = || {
            let (negative, digits) = match text.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, text.strip_prefix('+').unwrap_or(text)),
            };
            let (whole, places) = digits.split_once('.').unwrap_or((digits, "0"));
            let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number(whole) || !is_number(places) || places.len() > 6 {
                return None;
            }
            let whole: i64 = whole.parse().ok()?;
            let places: i64 = format!("{places:0<6}").parse().ok()?;
            let size = whole.checked_mul(1_000_000)?.checked_add(places)?;
            let microseconds = if negative { -size } else { size };
            (size <= Self::LIMIT_US).then_some(Self { microseconds })
        };
        parse().ok_or_else(|| InvalidOffset(text.to_owned()))
    }
}

impl fmt::Display for AudioOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.microseconds.unsigned_abs();
        let sign = if self.microseconds < 0 { "-" } else { "" };
        let text = format!("{sign}{}.{:06}", size / 1_000_000, size % 1_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_exact_decimals_in_both_directions() {
        for (text, microseconds, shown) in [
            ("0", 0, "0"),
            ("1.5", 1_500_000, "1.5"),
            ("+0.040", 40_000, "0.04"),
            ("-0.778667", -778_667, "-0.778667"),
            ("3600", 3_600_000_000, "3600"),
        ] {
            let offset: AudioOffset = text.parse().unwrap();
            assert_eq!(
                (offset.microseconds(), offset.to_string().as_str()),
                (microseconds, shown)
            );
        }
        for text in [
            "",
            "-",
            ".5",
            "1.",
            "1e3",
            "1,5",
            "3600.1",
            "0.1234567",
            "--1",
            "1s",
            "9999999999999999999",
        ] {
            assert!(text.parse::<AudioOffset>().is_err(), "{text}");
        }
    }
}
