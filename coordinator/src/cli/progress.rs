//! What the operator sees while a job runs: a bar and readable lines on standard error, or JSON lines on
//! standard output.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use latentfarm_common::ids::Work;
use serde_json::Value;

use super::events;
use crate::dispatch::JobEvent;
use crate::ingest::IngestStage;
use crate::local::LocalNotice;
use crate::render::RenderEvent;
use crate::stitch::StitchStep;

/// Without a terminal, progress is printed in lines, one for each part of so many.
const PARTS: u64 = 10;
/// A phase is printed once it has taken this long.
const QUIET_START: Duration = Duration::from_secs(2);

/// The operator's view of one command.
#[derive(Debug)]
pub(super) struct Ui {
    json: bool,
    bar: ProgressBar,
    is_terminal: bool,
    told_parts: u64,
    /// Name and unit of the phase, such as `render` and `frames`.
    phase: (String, String),
}

impl Ui {
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stderr().is_terminal() && !json;
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        Self {
            json,
            bar,
            is_terminal,
            told_parts: 0,
            phase: (String::new(), String::new()),
        }
    }

    /// Shows one event of a render, for machines and for people.
    pub(super) fn show(&mut self, event: &RenderEvent) {
        if let Some(value) = events::to_json(event) {
            self.event(&value);
        }
        match event {
            RenderEvent::Resuming { folder } => self.line(&format!("resuming in `{}`", folder.display())),
            RenderEvent::IngestBegins { source_frames } => {
                self.begin("ingest", *source_frames, "source frames");
            }
            RenderEvent::Ingest(step) => {
                if step.stage == IngestStage::Cut {
                    self.advance(step.done, "cutting");
                }
            }
            RenderEvent::Note(text) => self.line(text),
            RenderEvent::Ingested {
                source_frames,
                segments,
                audio_windows,
                ..
            } => {
                self.finish();
                self.line(&format!(
                    "ingested {source_frames} source frames in {segments} segments, speech in {audio_windows} windows"
                ));
            }
            RenderEvent::DispatchBegins { frames } => self.begin("render", *frames, "frames"),
            RenderEvent::Job(event) => self.show_job(event),
            RenderEvent::Local(notice) => self.show_local(notice),
            RenderEvent::Draining => {
                self.warn("draining: the chunks in hand are finished first; Ctrl-C again stops at once");
            }
            RenderEvent::StitchBegins { frames } => self.begin("stitch", *frames, "frames"),
            RenderEvent::Stitch(step) => match step {
                StitchStep::Checked { frames } => self.advance(*frames, "checking segments"),
                StitchStep::Joined { frames } => self.advance(*frames, "joining"),
                StitchStep::Verifying => {
                    self.advance(self.bar.length().unwrap_or(0), "verifying the result");
                }
            },
        }
    }

    fn show_job(&mut self, event: &JobEvent) {
        match event {
            JobEvent::Progress(progress) => {
                let done = progress.render.frames_done + progress.frames_under_way;
                let analyzed = progress.analyze.frames_done;
                let mut text = match progress.workers {
                    1 => format!("1 worker, {analyzed}/{} analysed", progress.analyze.frames),
                    n => format!("{n} workers, {analyzed}/{} analysed", progress.analyze.frames),
                };
                if let Some(shortage) = &progress.shortage {
                    let waiting = progress.waiting_for_memory;
                    // Writing to a text cannot fail.
                    let _written = write!(text, ", {waiting} waiting for memory ({shortage})");
                }
                self.advance(done, &text);
            }
            JobEvent::Heartbeat(_) => {}
            // Every chunk begins; only what is done, or did not go well, is worth a line.
            JobEvent::ChunkStarted { chunk, .. } if chunk.work == Work::Analyze => {}
            _ => self.line(&event.to_string()),
        }
    }

    fn show_local(&self, notice: &LocalNotice) {
        match notice {
            LocalNotice::WorkerDied {
                worker,
                how,
                restarts_in,
            } => {
                let seconds = restarts_in.as_secs_f32();
                self.line(&format!(
                    "worker {worker} ended ({how}); started again in {seconds:.1} s"
                ));
            }
            LocalNotice::WorkerGivenUp { worker, why } => {
                self.warn(&format!("worker {worker} is given up: {why}"));
            }
            LocalNotice::ServerRestarted { how } => {
                self.line(&format!(
                    "the private nats-server ended ({how}) and was started again"
                ));
            }
            // Ends the job with an error that says as much.
            LocalNotice::ServerLost { .. } => {}
        }
    }

    /// Begins a phase of `total` units, such as `frames`.
    fn begin(&mut self, what: &str, total: u64, unit: &str) {
        self.bar.finish_and_clear();
        self.told_parts = 0;
        self.phase = (what.to_owned(), unit.to_owned());
        let target = if self.is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let template =
            format!("{what:>9} [{{bar:30}}] {{pos}}/{{len}} {unit}, {{rate}}, {{eta}} left, {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::with_draw_target(Some(total), target);
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _full = write!(out, "{:.1}/s", state.per_sec());
        };
        self.bar
            .set_style(style.with_key("rate", rate).progress_chars("=> "));
        if self.is_terminal {
            self.bar.enable_steady_tick(Duration::from_millis(250));
        }
    }

    /// Sets how far the phase is, with a short text such as the number of workers.
    fn advance(&mut self, done: u64, text: &str) {
        self.bar.set_position(done);
        self.bar.set_message(text.to_owned());
        let total = self.bar.length().unwrap_or(0);
        if self.is_terminal || self.json || total == 0 {
            return;
        }
        let parts = done * PARTS / total;
        // A phase that is over in a moment needs no lines.
        if parts > self.told_parts && self.bar.elapsed() >= QUIET_START {
            self.told_parts = parts;
            let (what, unit) = &self.phase;
            let (rate, left) = (self.bar.per_sec(), HumanDuration(self.bar.eta()));
            self.line(&format!(
                "{what}: {done}/{total} {unit}, {rate:.1}/s, {left} left, {text}"
            ));
        }
    }

    pub(super) fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    /// One readable line for one event.
    pub(super) fn line(&self, text: &str) {
        if !self.json {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }

    /// The same event for machines: an object with an `event` field.
    pub(super) fn event(&self, event: &Value) {
        if self.json {
            // Nobody reading any more is no reason to end the job.
            let _closed = writeln!(io::stdout(), "{event}");
        }
    }

    /// Text that is the command's result, on standard output; in JSON mode the events hold it.
    pub(super) fn result(&self, text: &str) {
        if !self.json {
            let _closed = writeln!(io::stdout(), "{text}");
        }
    }

    /// Text that the operator must read in either mode, on standard error.
    pub(super) fn warn(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}
