//! Media time is counted in exact rationals and half-open frame ranges, never in seconds as floats. Every
//! part of the farm that counts frames uses these types.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::text::{InvalidText, serde_as_text};

/// Number of output frames in one window, which is one call of the UNet. Every chunk starts at a multiple of
/// it.
pub const WINDOW_FRAMES: u64 = 16;

/// Returns a duration in whole milliseconds, for reports.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An exact frame rate in frames per second, above 0 and at most 240. The fraction is in lowest terms.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRate {
    num: u32,
    den: u32,
}
serde_as_text!(FrameRate);

/// What the text of a frame rate has to be.
const RATE_FORM: &str =
    "frame rate: give frames per second as N, N/D or a decimal number such as 29.97, above 0 and at most 240";

impl FrameRate {
    /// 25 frames per second, which is the rate that the model was trained on.
    pub const FPS_25: Self = Self { num: 25, den: 1 };

    /// Makes the rate of `num / den` frames per second, and reduces the fraction.
    ///
    /// # Errors
    /// If a part is 0, or the rate is above 240.
    pub fn new(num: u32, den: u32) -> Result<Self, InvalidText> {
        let invalid = || InvalidText::new(RATE_FORM, &format!("{num}/{den}"));
        if num == 0 || den == 0 || u64::from(num) > 240 * u64::from(den) {
            return Err(invalid());
        }
        let divisor = gcd(num, den);
        Ok(Self {
            num: num / divisor,
            den: den / divisor,
        })
    }

    /// Returns the numerator of the reduced fraction.
    pub fn num(self) -> u32 {
        self.num
    }

    /// Returns the denominator of the reduced fraction.
    pub fn den(self) -> u32 {
        self.den
    }

    /// Returns the time base in which frame `n` has the timestamp `n`.
    pub fn time_base(self) -> TimeBase {
        TimeBase {
            num: self.den,
            den: self.num,
        }
    }

    /// Returns the number of frames that cover `samples` at `sample_rate_hz`: duration times rate, rounded
    /// up.
    pub fn frames_covering(self, samples: u64, sample_rate_hz: u32) -> u64 {
        let numerator = u128::from(samples) * u128::from(self.num);
        let denominator = u128::from(sample_rate_hz) * u128::from(self.den);
        u64::try_from(numerator.div_ceil(denominator)).unwrap_or(u64::MAX)
    }

    /// Returns the rate as a float, for display and estimates only.
    pub fn as_f64(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }
}

impl fmt::Display for FrameRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.den == 1 {
            write!(f, "{}", self.num)
        } else {
            write!(f, "{}/{}", self.num, self.den)
        }
    }
}

impl fmt::Debug for FrameRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} fps")
    }
}

/// The text form is N, N/D, or a decimal number. A decimal number with two or more places that is one of the NTSC rates to
/// all its places means that exact rate: `29.97` is 30000/1001. Other decimal numbers are taken as they are.
impl FromStr for FrameRate {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        if let Some((whole, places)) = text.split_once('.') {
            return decimal_rate(whole, places).ok_or_else(|| InvalidText::new(RATE_FORM, text));
        }
        let (num, den) = text.split_once('/').unwrap_or((text, "1"));
        let rate = num.parse().ok().zip(den.parse().ok());
        let rate = rate.and_then(|(num, den)| Self::new(num, den).ok());
        rate.ok_or_else(|| InvalidText::new(RATE_FORM, text))
    }
}

/// The whole rates that video standards slow down by 1000/1001.
const NTSC: [u32; 8] = [15, 24, 30, 48, 60, 96, 120, 240];

/// Reads `whole.places` frames per second.
fn decimal_rate(whole: &str, places: &str) -> Option<FrameRate> {
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let scale = 10_u32.checked_pow(u32::try_from(places.len()).ok()?)?;
    if !is_number(whole) || !is_number(places) {
        return None;
    }
    let scaled = whole
        .parse::<u32>()
        .ok()?
        .checked_mul(scale)?
        .checked_add(places.parse().ok()?)?;
    // The NTSC rate of `k` is `k * 1000 / 1001`; it is the one that was meant if it rounds or truncates to all places.
    let ntsc = |k: u32| {
        let thousandths = u64::from(k) * 1000 * u64::from(scale);
        let (truncated, rounded) = (thousandths / 1001, (2 * thousandths + 1001) / 2002);
        [truncated, rounded].contains(&u64::from(scaled))
    };
    match NTSC.into_iter().find(|k| ntsc(*k)) {
        Some(k) if places.len() >= 2 && !scaled.is_multiple_of(scale) => FrameRate::new(k * 1000, 1001).ok(),
        _ => FrameRate::new(scaled, scale).ok(),
    }
}

/// The length of one tick of a timestamp: `num / den` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TimeBase {
    /// Numerator of the fraction of seconds.
    pub num: u32,
    /// Denominator of the fraction of seconds.
    pub den: u32,
}

/// A half-open range of frame numbers. A message with one that runs backwards is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RangeBounds")]
pub struct FrameRange {
    /// Number of the first frame.
    pub start: u64,
    /// Number after that of the last frame.
    pub end: u64,
}

/// A [`FrameRange`] as it is received.
#[derive(Deserialize)]
struct RangeBounds {
    start: u64,
    end: u64,
}

impl TryFrom<RangeBounds> for FrameRange {
    type Error = String;

    fn try_from(RangeBounds { start, end }: RangeBounds) -> Result<Self, String> {
        if start > end {
            return Err(format!("the range of frames {start}..{end} runs backwards"));
        }
        Ok(Self { start, end })
    }
}

impl FrameRange {
    /// Makes the range of the frames from `start` up to, but without, `end`.
    ///
    /// # Panics
    /// If `start > end`. The planner makes ranges; they are not input.
    pub fn new(start: u64, end: u64) -> Self {
        assert!(start <= end, "range {start}..{end} runs backwards");
        Self { start, end }
    }

    /// Returns the number of frames.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no frame in the range.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether the frame with this number is in the range.
    pub fn contains(self, frame: u64) -> bool {
        (self.start..self.end).contains(&frame)
    }

    /// Returns the numbers of the frames in order.
    pub fn frames(self) -> std::ops::Range<u64> {
        self.start..self.end
    }

    /// Returns the windows of [`WINDOW_FRAMES`] that this range consists of; the last may be shorter. The
    /// range must start at a multiple of [`WINDOW_FRAMES`].
    pub fn windows(self) -> impl Iterator<Item = FrameRange> {
        debug_assert!(
            self.start.is_multiple_of(WINDOW_FRAMES),
            "chunk starts off the window grid"
        );
        let step = usize::try_from(WINDOW_FRAMES).unwrap_or(usize::MAX);
        self.frames()
            .step_by(step)
            .map(move |start| FrameRange::new(start, self.end.min(start.saturating_add(WINDOW_FRAMES))))
    }
}

impl fmt::Display for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Debug for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frames {self}")
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_reduced_and_checked() {
        assert_eq!("50/2".parse::<FrameRate>().unwrap(), FrameRate::FPS_25);
        assert_eq!(
            "24000/1001".parse::<FrameRate>().unwrap().to_string(),
            "24000/1001"
        );
        for text in ["0", "-1", "25/0", "a", "1000", "25/", "/1"] {
            assert!(text.parse::<FrameRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn frames_cover_the_audio() {
        assert_eq!(FrameRate::FPS_25.frames_covering(16_000, 16_000), 25);
        assert_eq!(FrameRate::FPS_25.frames_covering(16_001, 16_000), 26);
        assert_eq!(FrameRate::FPS_25.frames_covering(0, 16_000), 0);
    }

    proptest! {
        #[test]
        fn a_rate_is_read_from_its_own_text(num in 1_u32..240_000, den in 1_u32..1001) {
            prop_assume!(num <= 240 * den);
            let rate = FrameRate::new(num, den).unwrap();
            prop_assert_eq!(rate.to_string().parse::<FrameRate>().unwrap(), rate);
        }

        #[test]
        fn windows_tile_the_range(start in 0_u64..1000, len in 0_u64..1000) {
            let range = FrameRange::new(start * WINDOW_FRAMES, start * WINDOW_FRAMES + len);
            let mut next = range.start;
            for window in range.windows() {
                prop_assert_eq!(window.start, next);
                prop_assert!(window.start.is_multiple_of(WINDOW_FRAMES) && window.len() <= WINDOW_FRAMES);
                next = window.end;
            }
            prop_assert_eq!(next, range.end);
        }
    }

    #[test]
    fn decimal_rates_mean_what_people_mean_by_them() {
        let rates = [
            ("25", "25"),
            ("25.0", "25"),
            ("25.00", "25"),
            ("30000/1001", "30000/1001"),
            ("29.97", "30000/1001"),
            ("29.970", "30000/1001"),
            ("29.97003", "30000/1001"),
            ("23.976", "24000/1001"),
            ("23.98", "24000/1001"),
            ("23.97", "24000/1001"),
            ("59.94", "60000/1001"),
            ("119.88", "120000/1001"),
            ("14.985", "15000/1001"),
            ("12.5", "25/2"),
            ("29.9", "299/10"),
            ("29.95", "599/20"),
            ("9.99", "999/100"),
            ("0.5", "1/2"),
        ];
        for (text, expected) in rates {
            let rate: FrameRate = expected.parse().unwrap();
            assert_eq!(text.parse::<FrameRate>().unwrap(), rate, "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "",
            ".",
            "25.",
            ".5",
            "-25.0",
            "+2.5",
            "2.5e1",
            "25,0",
            "0.0",
            "240.1",
            "1.0000000000",
            "NaN",
            "29.97/2",
        ] {
            let error = text.parse::<FrameRate>().unwrap_err().to_string();
            assert!(error.contains("frames per second"), "{text}: {error}");
        }
    }
}
