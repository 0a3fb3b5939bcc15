//! The report of a render that has ended, as a short text for people and as one JSON object for programs.
//! `cli::render` prints one of them last.

mod borders;
pub(super) mod memory;
mod wrong_pictures;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use latentfarm_common::ids::WorkKind;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::{SilenceMode, WeightsKind};
use latentfarm_common::wire::outcome::StageTimings;
use serde_json::{Value, json};

use super::lip_sync;
use crate::dispatch::Ending;
use crate::ingest::defects;
use crate::render::RenderReport;

/// Returns the report as a JSON object.
pub(super) fn to_json(report: &RenderReport) -> Value {
    let retries = report.job.retries.iter();
    let retries: BTreeMap<&str, &u64> = retries.map(|(class, count)| (class.label(), count)).collect();
    let given_up: Vec<Value> = given_up(report)
        .map(|(range, reason)| json!({ "start": range.start, "end": range.end, "reason": reason }))
        .collect();
    let written = report.written.as_ref();
    json!({
        "event": "report",
        "output": written.map(|written| written.path.display().to_string()),
        "frames": report.spec.frames,
        "rate": report.spec.encoder.rate.to_string(),
        "seconds": report.elapsed.as_secs_f64(),
        "synced": report.job.synced,
        "passed": report.job.passed,
        "without_face": ranges(&report.job.without_face),
        "tail": report.job.tail,
        "silence": silence_json(report),
        "source_defects": report.job.defects,
        "resumed_chunks": report.resumed_chunks,
        "frames_digest": written.map(|written| &written.frames_digest),
        "weights_kind": report.spec.model.weights_kind,
        "sound": written.map(|written| &written.sound),
        "retries": retries,
        "workers": report.job.workers,
        "set_aside": report.job.set_aside,
        "doubtful": report.job.doubtful,
        "spot_checks": report.job.spot_checks,
        "lip_sync": report.job.lip_sync.as_ref().map(lip_sync::to_json),
        "numerics_fingerprints": report.job.numerics_fingerprints.keys().collect::<Vec<_>>(),
        "borders": report.job.borders.iter().map(borders::to_json).collect::<Vec<_>>(),
        "given_up": given_up,
        "no_worker": match &report.ending {
            Ending::NoWorker { reason } => Some(reason),
            _ => None,
        },
        "analyze_ms": BTreeMap::from(stages(&report.job.analyze)),
        "render_ms": BTreeMap::from(stages(&report.job.render)),
        "engine_ms": EngineTime::of(&report.job.render).to_json(),
        "memory": memory::to_json(&report.job),
    })
}

/// The silent frame ranges, all of them: a program may process the whole list, while the text names the first
/// few.
fn silence_json(report: &RenderReport) -> Value {
    let mode = match report.spec.audio.silence {
        SilenceMode::Off => return Value::Null,
        SilenceMode::Keep => "keep",
        SilenceMode::Close => "close",
    };
    json!({
        "mode": mode,
        "frames": report.job.silent.iter().map(|range| range.len()).sum::<u64>(),
        "kept": report.job.kept,
        "ranges": report.job.silent,
    })
}

/// Returns the report as text, several lines without a line break at the end.
pub(super) fn to_text(report: &RenderReport) -> String {
    let mut text = String::new();
    let seconds = report.elapsed.as_secs_f64();
    let rate = report.spec.frames as f64 / seconds.max(1e-3);
    let _ = if report.written.is_some() {
        writeln!(
            text,
            "{} frames in {seconds:.1} s ({rate:.1} frames/s)",
            report.spec.frames
        )
    } else {
        writeln!(text, "nothing was written after {seconds:.1} s")
    };
    let _ = write!(
        text,
        "  {} frames lip-synced, {} passed through unchanged",
        report.job.synced, report.job.passed
    );
    if !report.job.without_face.is_empty() {
        let _ = write!(text, "; no face in {}", ranges(&report.job.without_face));
    }
    if report.job.tail > 0 {
        let _ = write!(text, "; {} of them after the end of the speech", report.job.tail);
    }
    let silent: u64 = report.job.silent.iter().map(|range| range.len()).sum();
    if silent > 0 {
        let _ = write!(text, "\n  {silent} frames without speech");
        if report.spec.audio.silence == SilenceMode::Keep {
            let _ = write!(text, ", {} of them kept from the source", report.job.kept);
        }
        let _ = write!(text, ": {}", ranges(&report.job.silent));
    }
    if report.job.synced > 0 {
        let _ = write!(text, "\n  {}", lip_sync::sentence(report.job.lip_sync.as_ref()));
        // Random weights move the mouth at random, which the report says below.
        for warning in report.job.lip_sync.iter().flat_map(lip_sync::warnings) {
            if report.spec.model.weights_kind != WeightsKind::Synthetic {
                let _ = write!(text, "\n  WARNING: {warning}");
            }
        }
    }
    for sentence in defects::sentences(&report.job.defects) {
        let _ = write!(text, "\n  {sentence}");
    }
    let mut times = stages(&report.job.render);
    times[2].1 += report.job.analyze.face_ms;
    let parts: Vec<String> = times
        .iter()
        .filter(|(_, ms)| *ms >= 50)
        .map(|(name, ms)| format!("{} {:.1} s", name.replace('_', " "), *ms as f64 / 1000.0))
        .collect();
    let _ = write!(text, "\n  time by stage, over all workers: {}", parts.join(", "));
    if let Some(line) = EngineTime::of(&report.job.render).to_text() {
        let _ = write!(text, "\n  {line}");
    }
    let retries: Vec<String> = report
        .job
        .retries
        .iter()
        .map(|(class, count)| format!("{count} x {}", class.label()))
        .collect();
    let retries = if retries.is_empty() {
        "none".to_owned()
    } else {
        retries.join(", ")
    };
    let _ = write!(text, "\n  retries: {retries}");
    if report.resumed_chunks > 0 {
        let _ = write!(
            text,
            "; {} chunks were done by an earlier run",
            report.resumed_chunks
        );
    }
    for (worker, record) in &report.job.set_aside {
        let _ = write!(text, "\n  {worker} {}", record.reason);
        if record.times > 1 {
            let _ = write!(text, " ({} times)", record.times);
        }
    }
    text.push_str(&wrong_pictures::to_text(&report.job));
    text.push_str(&borders::to_text(&report.job));
    text.push_str(&memory::to_text(&report.job));
    if let Some(written) = &report.written {
        let _ = write!(text, "\n  sound: {}", written.sound);
    }
    for (range, reason) in given_up(report) {
        let _ = write!(text, "\n  given up: frames {range}: {reason}");
    }
    if let Some(written) = &report.written {
        if let Some(notice) = report.spec.model.weights_kind.notice() {
            let _ = write!(text, "\n  {notice}");
        }
        let _ = write!(text, "\nwrote {}", written.path.display());
    }
    text
}

/// Returns the frames of each chunk that was given up, and the reason.
fn given_up(report: &RenderReport) -> impl Iterator<Item = (FrameRange, String)> {
    let quarantined = match &report.ending {
        Ending::Incomplete { quarantined } | Ending::Failed { quarantined } => quarantined.as_slice(),
        Ending::Complete
        | Ending::NoWorker { .. }
        | Ending::NoVideo { .. }
        | Ending::NoFace
        | Ending::Cancelled
        | Ending::Interrupted { .. } => &[],
    };
    quarantined.iter().map(|chunk| {
        let reason = match chunk.work {
            WorkKind::Analyze => format!("face analysis: {}", chunk.reason),
            WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => chunk.reason.clone(),
        };
        (chunk.range, reason)
    })
}

/// How the engines spent their time in the chunks that needed one, summed over all workers.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units belong in names")]
struct EngineTime {
    busy_ms: u64,
    /// Time in which the engine was idle inside chunks because the next pictures were not ready.
    media_wait_ms: u64,
    /// Time in which the engine was idle between two chunks.
    edge_ms: u64,
}

impl EngineTime {
    fn of(render: &StageTimings) -> Self {
        Self {
            busy_ms: render.engine_ms,
            media_wait_ms: render.media_wait_ms,
            edge_ms: render.edge_ms,
        }
    }

    fn to_json(self) -> Value {
        json!({ "busy": self.busy_ms, "media_wait": self.media_wait_ms, "chunk_ends": self.edge_ms })
    }

    /// Returns a line for the report, or `None` if no engine was used.
    fn to_text(self) -> Option<String> {
        let total_ms = self.busy_ms + self.media_wait_ms + self.edge_ms;
        let seconds = |ms: u64| ms as f64 / 1000.0;
        (self.busy_ms > 0).then(|| {
            format!(
                "engine busy {:.0} % of {:.1} s, waited {:.1} s for media and {:.1} s between chunks",
                100.0 * self.busy_ms as f64 / total_ms as f64,
                seconds(total_ms),
                seconds(self.media_wait_ms),
                seconds(self.edge_ms)
            )
        })
    }
}

/// Returns the stages of a chunk's work by name, in order, with their wall time in milliseconds.
fn stages(timings: &StageTimings) -> [(&'static str, u64); 10] {
    [
        ("fetch", timings.fetch_ms),
        ("decode", timings.decode_ms),
        ("faces", timings.face_ms),
        ("speech", timings.audio_ms),
        ("VAE_encode", timings.vae_encode_ms),
        ("denoise", timings.denoise_ms),
        ("VAE_decode", timings.vae_decode_ms),
        ("paste", timings.paste_ms),
        ("encode", timings.encode_ms),
        ("commit", timings.commit_ms),
    ]
}

/// Returns the first eight ranges as text and the number of the others: `0..3, 17..20 and 5 more`.
fn ranges(ranges: &[FrameRange]) -> String {
    const SHOWN: usize = 8;
    let mut text = ranges
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if ranges.len() > SHOWN {
        let _ = write!(text, " and {} more", ranges.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_line_names_its_idle_times() {
        let render = StageTimings {
            engine_ms: 97_000,
            media_wait_ms: 300,
            edge_ms: 2_000,
            commit_ms: 700,
            ..StageTimings::default()
        };
        assert_eq!(
            EngineTime::of(&render).to_text().unwrap(),
            "engine busy 98 % of 99.3 s, waited 0.3 s for media and 2.0 s between chunks"
        );
        let unused = StageTimings {
            commit_ms: 5,
            ..StageTimings::default()
        };
        assert_eq!(EngineTime::of(&unused).to_text(), None);
    }
}
