//! The report of a render that has ended: for people a short text, for machines one JSON object.

pub(super) mod memory;

use std::fmt::Write as _;

use latentfarm_common::ids::Work;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::SilenceMode;
use latentfarm_common::wire::outcome::StageTimings;
use serde_json::{Value, json};

use crate::dispatch::Ending;
use crate::render::RenderReport;

/// The report for machines.
pub(super) fn to_json(report: &RenderReport) -> Value {
    let retries: serde_json::Map<String, Value> = report
        .job
        .retries
        .iter()
        .map(|(class, count)| (class.label().to_owned(), (*count).into()))
        .collect();
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
        "resumed_chunks": report.resumed_chunks,
        "frames_digest": written.map(|written| &written.frames_digest),
        "synthetic_weights": report.spec.model.synthetic,
        "sound": written.map(|written| &written.sound),
        "retries": retries,
        "workers": report.job.workers,
        "numerics_fingerprints": report.job.numerics_fingerprints.keys().collect::<Vec<_>>(),
        "given_up": given_up,
        "analyze_ms": stages(&report.job.analyze).into_iter().collect::<serde_json::Map<_, _>>(),
        "render_ms": stages(&report.job.render).into_iter().collect::<serde_json::Map<_, _>>(),
        "engine_ms": EngineTime::of(&report.job.render).to_json(),
        "memory": memory::to_json(&report.job),
    })
}

/// Every stretch is listed: a machine may want to look at them all.
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

/// The report for people.
pub(super) fn to_text(report: &RenderReport) -> String {
    let mut text = String::new();
    let seconds = report.elapsed.as_secs_f64();
    let rate = report.spec.frames as f64 / seconds.max(1e-3);
    let _ = if report.written.is_some() {
        writeln!(
            text,
            "{} frames in {seconds:.1} s ({rate:.1} a second)",
            report.spec.frames
        )
    } else {
        writeln!(text, "nothing was written after {seconds:.1} s")
    };
    let _ = write!(
        text,
        "  {} synced, {} passed through",
        report.job.synced, report.job.passed
    );
    if !report.job.without_face.is_empty() {
        let _ = write!(text, "; no face in {}", ranges(&report.job.without_face));
    }
    if report.job.tail > 0 {
        let _ = write!(text, "; {} are the kept tail", report.job.tail);
    }
    let silent: u64 = report.job.silent.iter().map(|range| range.len()).sum();
    if silent > 0 {
        let _ = write!(text, "\n  {silent} frames without speech");
        if report.spec.audio.silence == SilenceMode::Keep {
            let _ = write!(text, ", {} of them the source picture", report.job.kept);
        }
        let _ = write!(text, ": {}", ranges(&report.job.silent));
    }
    let mut times = stages(&report.job.render);
    times[2].1 = (report.job.analyze.face_ms + report.job.render.face_ms).into();
    let parts: Vec<String> = times
        .iter()
        .filter_map(|(name, ms)| {
            let seconds = ms.as_u64()? as f64 / 1000.0;
            (seconds >= 0.05).then(|| format!("{} {seconds:.1} s", name.replace('_', " ")))
        })
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
    if report.job.numerics_fingerprints.len() > 1 {
        let kinds: Vec<&str> = report
            .job
            .numerics_fingerprints
            .keys()
            .map(String::as_str)
            .collect();
        let _ = write!(
            text,
            "\n  rendered by machines of several numeric kinds: {}",
            kinds.join(", ")
        );
    }
    text.push_str(&memory::to_text(&report.job));
    if let Some(written) = &report.written {
        let _ = write!(text, "\n  sound: {}", written.sound);
    }
    for (range, reason) in given_up(report) {
        let _ = write!(text, "\n  given up: frames {range}: {reason}");
    }
    if let Some(written) = &report.written {
        if report.spec.model.synthetic {
            text.push_str("\n  SYNTHETIC WEIGHTS: the mouth is moved at random");
        }
        let _ = write!(text, "\nwrote {}", written.path.display());
    }
    text
}

/// The chunks that were given up: their frames and the reason.
fn given_up(report: &RenderReport) -> impl Iterator<Item = (FrameRange, String)> {
    let quarantined = match &report.ending {
        Ending::Incomplete { quarantined } | Ending::Failed { quarantined } => quarantined.as_slice(),
        Ending::Complete | Ending::NoFace | Ending::Interrupted { .. } => &[],
    };
    quarantined.iter().map(|chunk| {
        let reason = match chunk.work {
            Work::Analyze => format!("face analysis: {}", chunk.reason),
            Work::Render => chunk.reason.clone(),
        };
        (chunk.range, reason)
    })
}

/// Where the engines' time went in the chunks that needed one, over all workers.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units belong in names")]
struct EngineTime {
    busy_ms: u64,
    /// Idle inside chunks, for want of pictures.
    media_wait_ms: u64,
    /// Idle at the ends of chunks.
    edge_ms: u64,
}

impl EngineTime {
    fn of(render: &StageTimings) -> Self {
        let is_used = render.engine_ms > 0;
        Self {
            busy_ms: render.engine_ms,
            media_wait_ms: render.media_wait_ms,
            edge_ms: render.edge_ms + if is_used { render.commit_ms } else { 0 },
        }
    }

    fn to_json(self) -> Value {
        json!({ "busy": self.busy_ms, "media_wait": self.media_wait_ms, "chunk_ends": self.edge_ms })
    }

    /// `None` where no engine was used.
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

fn stages(timings: &StageTimings) -> Vec<(String, Value)> {
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
    .into_iter()
    .map(|(name, ms)| (name.to_owned(), ms.into()))
    .collect()
}

/// `0..3, 17..20`, cut after a few.
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
    fn the_engines_line_says_what_it_waited_for() {
        let render = StageTimings {
            engine_ms: 97_000,
            media_wait_ms: 300,
            edge_ms: 2_000,
            commit_ms: 700,
            ..StageTimings::default()
        };
        assert_eq!(
            EngineTime::of(&render).to_text().unwrap(),
            "engine busy 97 % of 100.0 s, waited 0.3 s for media and 2.7 s between chunks"
        );
        let unused = StageTimings {
            commit_ms: 5,
            ..StageTimings::default()
        };
        assert_eq!(EngineTime::of(&unused).to_text(), None);
    }
}
