//! `latentfarm sync`: measures whether the lips of a video follow a speech, and prints it as text, JSON or a page.

mod page;

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use latentfarm_common::console::tell;
use latentfarm_common::error::FileError;
use latentfarm_common::media;
use latentfarm_common::shutdown;
use latentfarm_common::time::{FrameRange, FrameRate};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::args::SyncArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use super::lip_sync;
use super::stdout::print_result;
use crate::sync::{self, SyncError, SyncReport, SyncRequest};

/// The most media processes that are started unless the user says so.
const MOST_PROCESSES: usize = 8;
/// A measurement that takes longer says how far it is, this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

pub(super) fn main(args: SyncArgs) -> Result<ExitStatus, CommandError> {
    let runtime = runtime(1)?;
    runtime.block_on(run(args))
}

async fn run(args: SyncArgs) -> Result<ExitStatus, CommandError> {
    let (trigger, shutdown, _drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let request = SyncRequest {
        video: args.video.clone(),
        audio: args.audio.clone(),
        audio_track: args.audio_track.clone().unwrap_or_default(),
        processes: args.processes.map_or(cores.min(MOST_PROCESSES), usize::from),
    };
    let measured = spawn_blocking(move || {
        media::init();
        let told = Mutex::new(Instant::now());
        sync::measure(&request, &shutdown, &|done, of| tell_progress(&told, done, of))
    });
    let report = match measured.await.context("the measurement panicked")? {
        Err(SyncError::Stopped) => return Ok(ExitStatus::Interrupted),
        Err(error) if error.is_bad_input() => return Err(CommandError::refused(error)),
        measured => measured.map_err(CommandError::failed)?,
    };
    let name = args.video.display().to_string();
    if let Some(path) = &args.html {
        let written = std::fs::write(path, page::page(&name, &report));
        written
            .map_err(FileError::at("write", path))
            .map_err(CommandError::refused)?;
    }
    print_result(if args.json {
        to_json(&report).to_string()
    } else {
        to_text(&report)
    })?;
    Ok(ExitStatus::Complete)
}

fn tell_progress(told: &Mutex<Instant>, done: u64, of: u64) {
    if let Ok(mut last) = told.lock()
        && last.elapsed() >= TELL_EVERY
    {
        *last = Instant::now();
        tell(format_args!("{done} of {of} frames"));
    }
}

fn to_json(report: &SyncReport) -> Value {
    let faces = report.faces.iter().map(|face| {
        json!({
            "range": face.range,
            "bbox": face.bbox,
            "fit": lip_sync::to_json(&face.fit),
        })
    });
    json!({
        "rate": report.rate.to_string(),
        "fit": report.fit.as_ref().map(lip_sync::to_json),
        "faces": faces.collect::<Vec<_>>(),
        "lips": report.lips.iter().map(|lips| lips.map(|lips| lips.0)).collect::<Vec<_>>(),
        "loudness": report.loudness,
    })
}

/// Returns the measurement as text, several lines without a line break at the end.
fn to_text(report: &SyncReport) -> String {
    let mut text = lip_sync::sentence(report.fit.as_ref());
    if let Some(fit) = &report.fit {
        for warning in lip_sync::warnings(fit) {
            let _ = write!(text, "\n  WARNING: {warning}");
        }
        let [low, high] = fit.opening;
        let _ = write!(
            text,
            "\n  {} frames at {} per second with a mouth, open by {low:.3} to {high:.3} of the eyes' distance",
            fit.frames, report.rate
        );
        if let Some(confidence) = fit.confidence {
            let share = 100.0 * confidence;
            let _ = write!(
                text,
                "\n  the fit is better than at {share:.0} % of other places of the speech"
            );
        }
        if let Some(silence) = &fit.silence {
            let _ = write!(
                text,
                "\n  silence: {} frames, 95 % of them open by {:.3} at most",
                silence.frames, silence.opening
            );
        }
        for stretch in &fit.stretches {
            let _ = write!(
                text,
                "\n  {}: lag {}, r = {:.2}",
                seconds(stretch.range, report.rate),
                stretch.lag_frames,
                stretch.correlation
            );
        }
    }
    if report.faces.len() > 1 {
        text.push_str("\nfaces:");
        for face in &report.faces {
            let [x, y, width, height] = face.bbox;
            let _ = write!(
                text,
                "\n  {}, {width:.0} x {height:.0} at {x:.0},{y:.0}: {}",
                seconds(face.range, report.rate),
                lip_sync::sentence(Some(&face.fit))
            );
        }
    }
    text
}

/// Returns a range of frames in seconds, such as `10.0-20.0 s`.
fn seconds(range: FrameRange, rate: FrameRate) -> String {
    let at = |frame: u64| frame as f64 / rate.as_f64();
    format!("{:.1}-{:.1} s", at(range.start), at(range.end))
}
