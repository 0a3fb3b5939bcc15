//! Sentences about the stretches of the video that are not shown as the file has them: ingest notes them when
//! the video is stored, and the report repeats them.

use latentfarm_common::wire::job::{DefectKind, SourceDefect};

/// The most stretches that a sentence lists.
const LISTED: usize = 8;

/// Returns a sentence for each kind of defect that there is.
pub fn sentences(defects: &[SourceDefect]) -> Vec<String> {
    DefectKind::ALL
        .into_iter()
        .filter_map(|kind| sentence(kind, defects))
        .collect()
}

fn sentence(kind: DefectKind, defects: &[SourceDefect]) -> Option<String> {
    let stretches: Vec<&SourceDefect> = defects.iter().filter(|defect| defect.kind == kind).collect();
    let frames: u64 = stretches.iter().map(|defect| defect.frames.len()).sum();
    let mut times: Vec<String> = stretches
        .iter()
        .take(LISTED)
        .map(|defect| format!("{} to {} s", seconds(defect.start_ms), seconds(defect.end_ms)))
        .collect();
    if stretches.len() > LISTED {
        times.push(format!("and {} more", stretches.len() - LISTED));
    }
    let what = match kind {
        DefectKind::Concealed => "damaged source frames, used as far as they can be decoded",
        DefectKind::Repeated => "source frames without a picture, which repeat the one before them",
        DefectKind::Converted => {
            "source frames of another size, pixel format or colour than the first one, converted to its"
        }
    };
    (frames > 0).then(|| format!("{what}: {frames}, at {}", times.join(", ")))
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::time::FrameRange;

    #[test]
    fn each_kind_is_one_sentence_with_its_times() {
        let defect = |kind, start, end| SourceDefect {
            kind,
            frames: FrameRange::new(start, end),
            start_ms: start * 40,
            end_ms: end * 40,
        };
        let mut defects = vec![
            defect(DefectKind::Concealed, 37, 38),
            defect(DefectKind::Repeated, 38, 41),
            defect(DefectKind::Concealed, 41, 42),
        ];
        assert_eq!(
            sentences(&defects),
            [
                "damaged source frames, used as far as they can be decoded: 2, at 1.480 to 1.520 s, 1.640 to 1.680 s",
                "source frames without a picture, which repeat the one before them: 3, at 1.520 to 1.640 s",
            ]
        );
        defects.extend((50..60).map(|n| defect(DefectKind::Converted, 2 * n, 2 * n + 1)));
        let converted = sentences(&defects).pop().unwrap();
        assert!(
            converted.starts_with("source frames of another size"),
            "{converted}"
        );
        assert!(converted.ends_with("4.560 to 4.600 s, and 2 more"), "{converted}");
        assert_eq!(sentences(&[]), Vec::<String>::new());
    }
}
