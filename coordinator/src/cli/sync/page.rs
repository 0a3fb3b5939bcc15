//! The page of `latentfarm sync --html`: the curves of lips and loudness, one row for each ten seconds, and the
//! figures. It needs no other file.

use std::fmt::Write as _;

use crate::cli::lip_sync::{sentence, warnings};
use crate::sync::SyncReport;

/// The seconds of a row.
const ROW_SECONDS: f64 = 10.0;
/// The size of a row's drawing in pixels.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 110.0;
/// The opening at the top of a drawing, as a share of the eyes' distance; wider mouths are cut off.
const TOP: f32 = 0.25;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1040px;padding:0 1em;\
color:#222;background:#fff}svg{display:block;width:100%;height:auto;background:#f6f6f4;margin:.2em 0 1em}\
.loud{fill:#c9d8e6}.lips{fill:none;stroke:#b3402e;stroke-width:1.6}small{color:#666}";

/// Returns the page for the video `name`.
pub(super) fn page(name: &str, report: &SyncReport) -> String {
    let name = escaped(name);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Lip sync of {name}</title><style>{STYLE}</style>\n<h1>{name}</h1>\n<p><b>{}</b></p>\n",
        escaped(&sentence(report.fit.as_ref()))
    );
    for warning in report.fit.iter().flat_map(warnings) {
        let _ = writeln!(html, "<p>WARNING: {}</p>", escaped(&warning));
    }
    html.push_str(
        "<p><small>Blue: how loud the speech is. Red: how far the inner lips of the largest face are open, up to a \
         quarter of the eyes' distance. This is an indicator of timing, not of picture quality.</small></p>\n",
    );
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 2,400 frames"
    )]
    let row = (ROW_SECONDS * report.rate.as_f64()).round().max(1.0) as usize;
    for start in (0..report.lips.len()).step_by(row) {
        let seconds = start as f64 / report.rate.as_f64();
        let _ = writeln!(html, "<div>{seconds:.0} s</div>{}", drawing(report, start, row));
    }
    html.push_str("</html>\n");
    html
}

/// Draws `row` frames from `start` on.
fn drawing(report: &SyncReport, start: usize, row: usize) -> String {
    let end = (start + row).min(report.lips.len());
    let x = |frame: usize| (frame - start) as f64 / row as f64 * WIDTH;
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"lips and loudness\">");
    let _ = write!(svg, "<path class=\"loud\" d=\"M{:.1} {HEIGHT}", x(start));
    for (frame, loudness) in (start..end).zip(&report.loudness[start..end]) {
        let y = HEIGHT * (1.0 - f64::from(*loudness) / 255.0);
        let _ = write!(svg, "L{:.1} {y:.1}", x(frame));
    }
    let _ = write!(
        svg,
        "L{:.1} {HEIGHT}Z\"/><path class=\"lips\" d=\"",
        x(end.saturating_sub(1))
    );
    let mut is_drawn = false;
    for (frame, lips) in (start..end).zip(&report.lips[start..end]) {
        let Some(lips) = lips else {
            is_drawn = false;
            continue;
        };
        let y = HEIGHT * f64::from(1.0 - (lips.share() / TOP).min(1.0));
        let _ = write!(svg, "{}{:.1} {y:.1}", if is_drawn { 'L' } else { 'M' }, x(frame));
        is_drawn = true;
    }
    svg.push_str("\"/></svg>");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::lip_sync::LipOpening;
    use latentfarm_common::time::FrameRate;

    #[test]
    fn a_page_has_a_row_for_ten_seconds_and_breaks_the_curve_where_no_mouth_is_seen() {
        let mut lips = vec![Some(LipOpening(100)); 300];
        lips[5] = None;
        let report = SyncReport {
            rate: FrameRate::FPS_25,
            loudness: vec![128; 300],
            lips,
            fit: None,
            faces: Vec::new(),
        };
        let html = page("a<b>&.mp4", &report);
        assert!(html.contains("<h1>a&lt;b>&amp;.mp4</h1>"));
        assert_eq!(html.matches("<svg").count(), 2);
        let curves = html.split("class=\"lips\" d=\"").skip(1);
        let starts: Vec<usize> = curves
            .map(|curve| curve.split('"').next().unwrap().matches('M').count())
            .collect();
        assert_eq!(starts, [2, 1]);
        assert!(
            html.contains("L4.0 54.8"),
            "loudness 128 is in the middle: {html}"
        );
    }
}
