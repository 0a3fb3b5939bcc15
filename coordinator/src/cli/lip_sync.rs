//! The words for a measurement of the sync meter, in the report of a job and in `latentfarm sync`.

use latentfarm_common::lip_sync::{LipSync, MIN_SECONDS, Verdict};
use serde_json::{Value, json};

/// Returns the measurement as one JSON object.
pub(super) fn to_json(fit: &LipSync) -> Value {
    let mut object = json!(fit);
    object["verdict"] = json!(match fit.verdict() {
        Verdict::Follows => "follows",
        Verdict::Shifted => "shifted",
        Verdict::Unclear => "unclear",
        Verdict::TooShort => "too_short",
    });
    object
}

/// Returns what was measured as a sentence without a full stop.
pub(super) fn sentence(fit: Option<&LipSync>) -> String {
    let Some(fit) = fit else {
        return format!(
            "mouths are seen for less than {MIN_SECONDS} s: too little to tell whether lips follow the speech"
        );
    };
    let (lag, r) = (frames(fit.lag_frames.unsigned_abs()), fit.correlation);
    match fit.verdict() {
        Verdict::Follows => {
            let side = match fit.lag_frames {
                0 => "",
                1.. => " late",
                _ => " early",
            };
            format!("lips follow the speech: lag {lag}{side}, r = {r:.2}")
        }
        Verdict::Shifted => {
            let side = if fit.lag_frames > 0 { "late" } else { "early" };
            format!(
                "lips follow the speech {lag} {side} ({} ms): r = {r:.2} there, {:.2} without a shift",
                fit.lag_ms.unsigned_abs(),
                fit.correlation_at_zero
            )
        }
        Verdict::TooShort => format!(
            "lips fit the speech best at a lag of {} frames, r = {r:.2}; it is too short to tell that from chance",
            fit.lag_frames
        ),
        Verdict::Unclear => format!(
            "lips follow the speech no more than chance explains: r = {:.2} at lag 0",
            fit.correlation_at_zero
        ),
    }
}

/// Returns what the operator should look into, as sentences without full stops.
pub(super) fn warnings(fit: &LipSync) -> Vec<String> {
    let mut warnings = Vec::new();
    if fit.verdict() == Verdict::Shifted {
        let side = if fit.lag_frames > 0 { "after" } else { "before" };
        warnings.push(format!(
            "the lips move {} ms {side} the speech: compare with --audio-offset, and look at the result",
            fit.lag_ms.unsigned_abs()
        ));
    }
    if let Some(silence) = fit.silence.as_ref().filter(|silence| silence.is_moving()) {
        warnings.push(format!(
            "the lips move while nobody speaks, by {:.3} of the eyes' distance a frame ({:.3} in speech): --silence keep \
             shows the source there",
            silence.movement, silence.movement_in_speech
        ));
    }
    warnings
}

fn frames(count: u32) -> String {
    if count == 1 {
        "1 frame".to_owned()
    } else {
        format!("{count} frames")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::lip_sync::SilentLips;

    fn fit(lag_frames: i32, confidence: f32) -> LipSync {
        LipSync {
            frames: 500,
            lag_frames,
            lag_ms: lag_frames * 40,
            is_on_time: lag_frames.abs() <= 1,
            correlation: 0.613,
            correlation_at_zero: 0.2,
            confidence: Some(confidence),
            opening: [0.02, 0.14],
            silence: None,
            stretches: Vec::new(),
        }
    }

    #[test]
    fn each_verdict_has_its_sentence() {
        let text = |lag, confidence| sentence(Some(&fit(lag, confidence)));
        assert_eq!(text(0, 1.0), "lips follow the speech: lag 0 frames, r = 0.61");
        assert_eq!(
            text(-1, 1.0),
            "lips follow the speech: lag 1 frame early, r = 0.61"
        );
        assert_eq!(
            text(3, 0.99),
            "lips follow the speech 3 frames late (120 ms): r = 0.61 there, 0.20 without a shift"
        );
        assert_eq!(
            text(3, 0.8),
            "lips follow the speech no more than chance explains: r = 0.20 at lag 0"
        );
        let short = LipSync {
            confidence: None,
            ..fit(-2, 1.0)
        };
        assert_eq!(
            sentence(Some(&short)),
            "lips fit the speech best at a lag of -2 frames, r = 0.61; it is too short to tell that from chance"
        );
        assert_eq!(warnings(&short), Vec::<String>::new());
        assert!(sentence(None).contains("less than 2 s"));
        assert_eq!(to_json(&fit(3, 1.0))["verdict"], "shifted");
        assert_eq!(to_json(&fit(3, 1.0))["lag_ms"], 120);
    }

    #[test]
    fn a_shift_and_lips_that_move_in_silence_are_warned_of() {
        assert_eq!(warnings(&fit(1, 1.0)), Vec::<String>::new());
        assert!(warnings(&fit(-3, 1.0))[0].contains("120 ms before the speech"));
        assert_eq!(
            warnings(&fit(-3, 0.5)),
            Vec::<String>::new(),
            "that may be chance"
        );
        let silence = SilentLips {
            frames: 50,
            opening: 0.1,
            movement: 0.02,
            movement_in_speech: 0.03,
        };
        let moving = LipSync {
            silence: Some(silence),
            ..fit(0, 1.0)
        };
        assert!(warnings(&moving)[0].contains("while nobody speaks, by 0.020"));
    }
}
