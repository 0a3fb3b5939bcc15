//! What time 0 of the output is in the file of the sound.

use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Rational, media};

use super::request::SoundRequest;

/// MP4 and Matroska count from time 0. A file whose tracks all begin later than this is a piece of something longer.
const MAX_OWN_START_S: i64 = 10;
/// FFmpeg's value for an unknown time stamp.
const NO_PTS: i64 = i64::MIN;

/// The start of the file, as far as it is known before the track is decoded.
pub(super) struct Origin {
    /// Time 0 of the output: the first picture.
    picture: Option<(i64, Rational)>,
    /// The earliest start of another track.
    others: Option<(i64, Rational)>,
    /// Whether the container counts from 0.
    counts_from_zero: bool,
}

impl Origin {
    /// Finds the start of the file, whose track with index `track` is used.
    pub(super) fn find(request: &SoundRequest<'_>, input: &Input, track: usize) -> Self {
        let others = input.streams().filter(|stream| {
            let medium = stream.parameters().medium();
            let plays = matches!(medium, media::Type::Audio | media::Type::Video);
            let is_cover = stream.disposition().contains(Disposition::ATTACHED_PIC);
            stream.index() != track && plays && !is_cover && stream.start_time() != NO_PTS
        });
        let starts = others.map(|stream| (stream.start_time(), stream.time_base()));
        let container = input.format().name().to_owned();
        Self {
            picture: request.origin.picture(),
            others: starts.min_by_key(|&(pts, base)| samples(pts, base, 1_000_000)),
            counts_from_zero: container
                .split(',')
                .any(|name| name == "mp4" || name == "matroska"),
        }
    }

    /// Returns the sample that is at time 0, of a track that begins with the time stamp `first`.
    pub(super) fn sample(&self, first: i64, time_base: Rational, rate_hz: u32) -> i64 {
        if let Some((pts, base)) = self.picture {
            return samples(pts, base, rate_hz);
        }
        let own = samples(first, time_base, rate_hz);
        let others = self.others.map(|(pts, base)| samples(pts, base, rate_hz));
        let start = others.map_or(own, |others| others.min(own));
        let zero = 0..=MAX_OWN_START_S * i64::from(rate_hz);
        if self.counts_from_zero && zero.contains(&start) {
            0
        } else {
            start
        }
    }
}

/// Returns a time in samples, rounded to the nearest.
pub(super) fn samples(pts: i64, time_base: Rational, rate_hz: u32) -> i64 {
    let (num, den) = (i128::from(time_base.0), i128::from(time_base.1.max(1)));
    let scaled = i128::from(pts) * num * i128::from(rate_hz);
    let rounded = (2 * scaled + den).div_euclid(2 * den);
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}
