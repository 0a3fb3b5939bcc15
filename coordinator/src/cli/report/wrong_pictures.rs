//! What the report says of results that look wrong, and of spot checks.

use std::fmt::Write as _;

use latentfarm_common::ids::WorkerId;

use crate::dispatch::{DoubtfulChunk, JobReport, SpotCheckReport};

/// Returns lines for the report, each after a line break.
pub(super) fn to_text(report: &JobReport) -> String {
    let SpotCheckReport {
        agreed,
        not_compared,
        disagreements,
    } = &report.spot_checks;
    let mut text = String::new();
    for DoubtfulChunk { frames, reason } in &report.doubtful {
        let _ = write!(
            text,
            "\n  look at frames {frames}: {reason}; two attempts came to the same, so that they count"
        );
    }
    let checked = *agreed + disagreements.len() as u64;
    if checked > 0 {
        let _ = write!(
            text,
            "\n  spot checks: of {checked} chunks that another worker of the same kind rendered again, {agreed} came to the \
             same frames"
        );
        if *not_compared > 0 {
            let _ = write!(text, "; {not_compared} could not be rendered again");
        }
    }
    for found in disagreements {
        let frames = found.frames;
        let workers: Vec<&str> = found.workers.iter().map(WorkerId::as_str).collect();
        let _ = match &found.odd {
            Some(odd) => write!(
                text,
                "\n  {odd} rendered other pictures of frames {frames} than two workers of its kind and was set aside; what it \
                 had rendered before counts: look at its chunks, and test its machine"
            ),
            None => write!(
                text,
                "\n  look at frames {frames}: {} are of one kind and rendered different pictures, and no other worker could \
                 show whose are wrong; those of {} count",
                workers.join(" and "),
                workers.first().unwrap_or(&"the first")
            ),
        };
    }
    text
}
