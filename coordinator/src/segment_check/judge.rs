//! Compares the figures of a segment with limits. They are several times what renders with the demo weights give (see
//! `coordinator/measurements/segment-figures.md`), so that a picture which exceeds one is not what the model made.

use latentfarm_common::wire::task::{Mouth, RenderFrame};

use super::expected::ExpectedPictures;
use super::figures::{FaceFigures, FrameFigures, mean};

/// The most that the means of blocks outside the face differ on average, in levels of luma.
const OUTSIDE: f64 = 3.0;
/// The most that the means of two blocks outside the face differ.
const WORST_BLOCK: f64 = 32.0;
/// The most that pixels outside the face differ on average.
const PIXELS: f64 = 6.0;
/// The most that pixels at brows and eyes differ on average.
const UPPER: f64 = 20.0;
/// The most that the mean luma at the mouth differs.
const LUMA_SHIFT: f64 = 40.0;
/// The most that the mean chroma at the mouth differs.
const CHROMA_SHIFT: f64 = 14.0;
/// The most fine detail at the mouth, as a multiple of the source's.
const DETAIL: f64 = 3.0;
/// The least standard deviation at the mouth, as a multiple of the source's.
const SPREAD: f64 = 0.1;
/// The mouth is the source's own if its pixels differ by less than this multiple of what the encoder leaves outside the
/// face, and [`OWN_LEVELS`] on top.
const OWN_FACTOR: f64 = 1.5;
const OWN_LEVELS: f64 = 0.3;
/// A mouth that moves less than this while somebody speaks is the same in every frame, in levels of luma: the standard
/// deviation over time of the pixels at fixed places of the face, on average.
const STILL: f64 = 0.8;
/// Speech is loud from this loudness on, of 255; see `Timeline::loudness`.
const LOUD: u8 = 128;
/// Fewer loud frames than this show neither whose mouth it is nor whether it moves.
const LEAST_LOUD: usize = 16;
/// Encoders of a greater constant rate factor leave more: the limits outside the face grow by this share for each step.
const PER_STEP: f64 = 0.1;
const USUAL_CRF: u8 = 23;

/// The extremes of a segment, for the log and the limits.
#[derive(Debug)]
struct Extremes {
    blocks: Option<Extreme>,
    worst_block: Option<Extreme>,
    pixels: Option<Extreme>,
    upper: Option<Extreme>,
    luma_shift: Option<Extreme>,
    chroma_shift: Option<Extreme>,
    detail: Option<Extreme>,
    spread: Option<Extreme>,
    /// The mean difference of pixels at the mouth and outside the face, over the loud frames.
    own: Option<[f64; 2]>,
    /// How much the mouth moves over the loud frames.
    movement: Option<f64>,
}

/// The value that is furthest from the usual one, and its frame.
#[derive(Clone, Copy, Debug)]
struct Extreme {
    frame: u64,
    value: f64,
}

/// Returns what cannot be the model's work, as one clause.
pub(super) fn judge(figures: &[FrameFigures], expected: &ExpectedPictures) -> Result<(), String> {
    let extremes = Extremes::of(figures, expected);
    tracing::debug!(frames = figures.len(), "{extremes:?}");
    extremes.check(expected.encoder.crf)
}

impl Extremes {
    fn of(figures: &[FrameFigures], expected: &ExpectedPictures) -> Self {
        let most = |value: &dyn Fn(&FrameFigures) -> Option<f64>| {
            let values = figures.iter().filter_map(|it| Some((it.frame, value(it)?)));
            let found = values.max_by(|one, other| one.1.total_cmp(&other.1))?;
            Some(Extreme {
                frame: found.0,
                value: found.1,
            })
        };
        let of_face = |value: fn(&FaceFigures) -> f64| most(&|it| it.face.as_ref().map(value));
        let least_spread = of_face(|face| -face.spread);
        let loud = loud_frames(figures, expected);
        Self {
            blocks: most(&|it| it.outside.map(|outside| outside.blocks)),
            worst_block: most(&|it| it.outside.map(|outside| outside.worst_block)),
            pixels: most(&|it| it.outside.map(|outside| outside.pixels)),
            upper: of_face(|face| face.upper),
            luma_shift: of_face(|face| face.luma_shift.abs()),
            chroma_shift: of_face(|face| face.chroma_shift),
            detail: of_face(|face| face.detail),
            spread: least_spread.map(|Extreme { frame, value }| Extreme { frame, value: -value }),
            own: own(&loud),
            movement: movement(&loud),
        }
    }

    fn check(&self, crf: Option<u8>) -> Result<(), String> {
        let steps = crf.map_or(0, |crf| crf.saturating_sub(USUAL_CRF));
        let encoder = 1.0 + PER_STEP * f64::from(steps);
        let within = |extreme: Option<Extreme>, limit: f64, what: &str| match extreme {
            Some(Extreme { frame, value }) if value > limit => Err(format!(
                "{what} in frame {frame} ({value:.1}, and {limit:.1} is the most that is usual)"
            )),
            _ => Ok(()),
        };
        within(
            self.blocks,
            OUTSIDE * encoder,
            "the picture differs from the source outside the face",
        )?;
        within(
            self.worst_block,
            WORST_BLOCK * encoder,
            "a part of the picture outside the face differs from the source",
        )?;
        within(
            self.pixels,
            PIXELS * encoder,
            "the pixels outside the face are not those of the source",
        )?;
        within(self.upper, UPPER, "brows and eyes are not those of the source")?;
        within(
            self.luma_shift,
            LUMA_SHIFT,
            "the mouth is brighter or darker than the source's",
        )?;
        within(
            self.chroma_shift,
            CHROMA_SHIFT,
            "the mouth has another colour than the source's",
        )?;
        within(self.detail, DETAIL, "the mouth is noise")?;
        if let Some(flat) = self.spread.filter(|spread| spread.value < SPREAD) {
            return Err(format!("the mouth is a flat patch in frame {}", flat.frame));
        }
        if let Some([mouth, outside]) = self.own
            && mouth < OWN_FACTOR * outside + OWN_LEVELS
        {
            return Err("the mouth is the source's own while somebody speaks".to_owned());
        }
        if let Some(movement) = self.movement
            && movement < STILL
        {
            return Err(format!(
                "the mouth is the same in every frame while somebody speaks (it moves by {movement:.2}, and \
                 {STILL} is the least that is usual)"
            ));
        }
        Ok(())
    }
}

/// The figures of the frames in which somebody speaks aloud with a mouth that was rendered from the speech.
fn loud_frames<'a>(
    figures: &'a [FrameFigures],
    expected: &ExpectedPictures,
) -> Vec<(&'a FrameFigures, &'a FaceFigures)> {
    let is_loud = |frame: &RenderFrame, loudness: u8| frame.mouth == Mouth::Speech && loudness >= LOUD;
    let frames = expected.input.frames.iter().zip(&expected.loudness);
    let loud = figures
        .iter()
        .zip(frames)
        .filter(|(_, (frame, loudness))| is_loud(frame, **loudness));
    loud.filter_map(|(figures, _)| Some((figures, figures.face.as_ref()?)))
        .collect()
}

fn own(loud: &[(&FrameFigures, &FaceFigures)]) -> Option<[f64; 2]> {
    let outside: Vec<f64> = loud
        .iter()
        .filter_map(|(it, _)| Some(it.outside?.pixels))
        .collect();
    let is_enough = loud.len() >= LEAST_LOUD && outside.len() == loud.len();
    is_enough.then(|| {
        [
            mean(loud.iter().map(|(_, face)| face.mouth)),
            mean(outside.into_iter()),
        ]
    })
}

fn movement(loud: &[(&FrameFigures, &FaceFigures)]) -> Option<f64> {
    if loud.len() < LEAST_LOUD {
        return None;
    }
    let places = loud.first().map_or(0, |(_, face)| face.samples.len());
    let of_place = |place: usize| {
        let values = || {
            loud.iter()
                .filter_map(|(_, face)| face.samples.get(place))
                .map(|value| f64::from(*value))
        };
        let centre = mean(values());
        mean(values().map(|value| (value - centre).powi(2))).sqrt()
    };
    Some(mean((0..places).map(of_place)))
}
