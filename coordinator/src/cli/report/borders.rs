//! The part of the report about results of machines that round differently, which meet within one video.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::dispatch::{JobReport, KindBorders, MeasuredBorder};

pub(super) fn to_json(borders: &KindBorders) -> Value {
    let measured = borders.measured.iter().map(|border| {
        json!({
            "frame": border.frame,
            "equal": border.difference.largest == 0,
            "psnr_db": border.difference.psnr_db(),
            "largest_difference": border.difference.largest,
        })
    });
    json!({
        "numerics_fingerprints": borders.fingerprints,
        "visible": borders.visible,
        "hidden": borders.hidden,
        "measured": measured.collect::<Vec<_>>(),
        "not_measured": borders.not_measured,
    })
}

/// Returns the lines, each after a line break; nothing if all results have one numerics fingerprint.
pub(super) fn to_text(job: &JobReport) -> String {
    let mut text = String::new();
    if job.numerics_fingerprints.len() < 2 {
        return text;
    }
    text.push_str("\n  rendered by machines that round differently; numerics fingerprints:");
    for (number, fingerprint) in (1..).zip(job.numerics_fingerprints.keys()) {
        let _ = write!(text, "\n    ({number}) {fingerprint}");
    }
    let number_of = |fingerprint: &String| {
        let mut known = job.numerics_fingerprints.keys();
        known
            .position(|other| other == fingerprint)
            .map_or(0, |place| place + 1)
    };
    for borders in &job.borders {
        let [one, other] = borders.fingerprints.each_ref().map(number_of);
        let _ = write!(
            text,
            "\n  between ({one}) and ({other}): {} within a shot",
            counted(borders.visible, "border")
        );
        if borders.hidden > 0 {
            let _ = write!(
                text,
                ", {} at a cut or beside a frame without a rendered mouth",
                borders.hidden
            );
        }
        for border in &borders.measured {
            let _ = write!(text, "\n    {}", measured(border));
        }
        if let Some(reason) = &borders.not_measured {
            let _ = write!(text, "\n    not measured: {reason}");
        }
    }
    if job.borders.iter().any(|borders| borders.visible > 0) {
        text.push_str("\n  --one-kind=shot moves such borders to cuts, and --one-kind avoids them");
    }
    text
}

fn measured(border: &MeasuredBorder) -> String {
    let frame = border.frame;
    match border.difference.psnr_db() {
        None => format!("frame {frame}, rendered by both: equal"),
        Some(psnr) => format!(
            "frame {frame}, rendered by both: PSNR {psnr:.1} dB, at most {} of 255 apart",
            border.difference.largest
        ),
    }
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::frame::PictureDifference;

    fn report(visible: u64, measured: Vec<MeasuredBorder>) -> JobReport {
        let fingerprints = ["cpu/f16", "cpu/f32"].map(str::to_owned);
        JobReport {
            numerics_fingerprints: fingerprints.iter().map(|text| (text.clone(), 1)).collect(),
            borders: vec![KindBorders {
                fingerprints,
                visible,
                hidden: 1,
                measured,
                not_measured: None,
            }],
            ..JobReport::default()
        }
    }

    #[test]
    fn borders_are_counted_and_measured() {
        let difference = PictureDifference::between(&[10, 20, 30, 40], &[10, 22, 30, 40]);
        let mut report = report(
            2,
            vec![MeasuredBorder {
                frame: 48,
                difference,
            }],
        );
        let text = to_text(&report);
        assert_eq!(
            text.lines().skip(4).collect::<Vec<_>>(),
            [
                "  between (1) and (2): 2 borders within a shot, 1 at a cut or beside a frame without a rendered \
                 mouth",
                "    frame 48, rendered by both: PSNR 48.1 dB, at most 2 of 255 apart",
                "  --one-kind=shot moves such borders to cuts, and --one-kind avoids them",
            ]
        );
        let json = to_json(&report.borders[0]);
        assert_eq!(json["measured"][0]["largest_difference"], 2);
        report.borders[0].measured[0].difference = PictureDifference::between(&[], &[]);
        assert!(to_text(&report).contains("frame 48, rendered by both: equal"));
        assert_eq!(to_json(&report.borders[0])["measured"][0]["psnr_db"], Value::Null);
    }

    #[test]
    fn what_was_not_measured_has_its_reason_and_one_kind_has_no_lines() {
        let mut mixed = report(1, Vec::new());
        mixed.borders[0].not_measured = Some("no machine is there".to_owned());
        assert!(to_text(&mixed).contains("1 border within a shot"));
        assert!(to_text(&mixed).contains("\n    not measured: no machine is there"));
        let mut one_kind = report(0, Vec::new());
        one_kind.numerics_fingerprints.pop_first();
        assert_eq!(to_text(&one_kind), "");
    }
}
