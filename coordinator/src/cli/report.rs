//! The report at a job's end: for people a short text, for machines one JSON object.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use latentfarm_common::time::{FrameRange, FrameRate};
use latentfarm_common::wire::job::SilenceMode;
use latentfarm_common::wire::outcome::StageTimings;
use serde_json::{Value, json};

use super::memory;
use crate::dispatch::JobReport;

/// What a finished render came to.
#[derive(Debug)]
pub(super) struct RenderReport<'a> {
    pub(super) job: &'a JobReport,
    /// The written file; `None` where none was.
    pub(super) output: Option<&'a Path>,
    pub(super) frames: u64,
    pub(super) rate: FrameRate,
    pub(super) elapsed: Duration,
    /// Chunks that an earlier run had finished.
    pub(super) resumed_chunks: usize,
    /// SHA-256 over the hashes of all composited frames in order.
    pub(super) frames_digest: Option<String>,
    pub(super) synthetic: bool,
    pub(super) silence: SilenceMode,
    /// What was done with the sound.
    pub(super) sound: Option<String>,
    /// Chunks given up: range and reason.
    pub(super) given_up: Vec<(FrameRange, String)>,
}

impl RenderReport<'_> {
    pub(super) fn to_json(&self) -> Value {
        let retries: serde_json::Map<String, Value> = self
            .job
            .retries
            .iter()
            .map(|(class, count)| (class.label().to_owned(), (*count).into()))
            .collect();
        let workers: serde_json::Map<String, Value> = self
            .job
            .workers
            .iter()
            .map(|(worker, chunks)| (worker.to_string(), (*chunks).into()))
            .collect();
        let given_up: Vec<Value> = self
            .given_up
            .iter()
            .map(|(range, reason)| json!({ "start": range.start, "end": range.end, "reason": reason }))
            .collect();
        json!({
            "event": "report",
            "output": self.output.map(|path| path.display().to_string()),
            "frames": self.frames,
            "rate": self.rate.to_string(),
            "seconds": self.elapsed.as_secs_f64(),
            "synced": self.job.synced,
            "passed": self.job.passed,
            "without_face": ranges(&self.job.without_face),
            "tail": self.job.tail,
            "silence": self.silence_json(),
            "resumed_chunks": self.resumed_chunks,
            "frames_digest": self.frames_digest,
            "synthetic_weights": self.synthetic,
            "sound": self.sound,
            "retries": retries,
            "workers": workers,
            "numeric_kinds": self.job.numeric_kinds.keys().collect::<Vec<_>>(),
            "given_up": given_up,
            "analyze_ms": stages(&self.job.analyze).into_iter().collect::<serde_json::Map<_, _>>(),
            "render_ms": stages(&self.job.render).into_iter().collect::<serde_json::Map<_, _>>(),
            "engine_ms": EngineTime::of(&self.job.render).to_json(),
            "memory": memory::to_json(self.job),
        })
    }

    /// Every stretch is listed: a machine may want to look at them all.
    fn silence_json(&self) -> Value {
        let mode = match self.silence {
            SilenceMode::Off => return Value::Null,
            SilenceMode::Keep => "keep",
            SilenceMode::Close => "close",
        };
        let stretches: Vec<Value> = self
            .job
            .silent
            .iter()
            .map(|range| json!({ "start": range.start, "end": range.end }))
            .collect();
        json!({
            "mode": mode,
            "frames": self.job.silent.iter().map(|range| range.len()).sum::<u64>(),
            "kept": self.job.kept,
            "ranges": stretches,
        })
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        let seconds = self.elapsed.as_secs_f64();
        let rate = self.frames as f64 / seconds.max(1e-3);
        let _ = match self.output {
            Some(_) => writeln!(
                text,
                "{} frames in {seconds:.1} s ({rate:.1} a second)",
                self.frames
            ),
            None => writeln!(text, "nothing was written after {seconds:.1} s"),
        };
        let _ = write!(
            text,
            "  {} synced, {} passed through",
            self.job.synced, self.job.passed
        );
        if !self.job.without_face.is_empty() {
            let _ = write!(text, "; no face in {}", ranges(&self.job.without_face));
        }
        if self.job.tail > 0 {
            let _ = write!(text, "; {} are the kept tail", self.job.tail);
        }
        let silent: u64 = self.job.silent.iter().map(|range| range.len()).sum();
        if silent > 0 {
            let _ = write!(text, "\n  {silent} frames without speech");
            if self.silence == SilenceMode::Keep {
                let _ = write!(text, ", {} of them the source picture", self.job.kept);
            }
            let _ = write!(text, ": {}", ranges(&self.job.silent));
        }
        let mut times = stages(&self.job.render);
        times[2].1 = (self.job.analyze.face_ms + self.job.render.face_ms).into();
        let parts: Vec<String> = times
            .iter()
            .filter_map(|(name, ms)| {
                let seconds = ms.as_u64()? as f64 / 1000.0;
                (seconds >= 0.05).then(|| format!("{} {seconds:.1} s", name.replace('_', " ")))
            })
            .collect();
        let _ = write!(text, "\n  time by stage, over all workers: {}", parts.join(", "));
        if let Some(line) = EngineTime::of(&self.job.render).to_text() {
            let _ = write!(text, "\n  {line}");
        }
        let retries: Vec<String> = self
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
        if self.resumed_chunks > 0 {
            let _ = write!(
                text,
                "; {} chunks were done by an earlier run",
                self.resumed_chunks
            );
        }
        if self.job.numeric_kinds.len() > 1 {
            let kinds: Vec<&str> = self.job.numeric_kinds.keys().map(String::as_str).collect();
            let _ = write!(
                text,
                "\n  rendered by machines of several numeric kinds: {}",
                kinds.join(", ")
            );
        }
        text.push_str(&memory::to_text(self.job));
        if let Some(sound) = &self.sound {
            let _ = write!(text, "\n  sound: {sound}");
        }
        for (range, reason) in &self.given_up {
            let _ = write!(text, "\n  given up: frames {range}: {reason}");
        }
        if self.synthetic && self.output.is_some() {
            text.push_str("\n  SYNTHETIC WEIGHTS: the mouth is moved at random");
        }
        if let Some(output) = self.output {
            let _ = write!(text, "\nwrote {}", output.display());
        }
        text
    }
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
