//! Shows a running job to the operator: a progress bar and readable lines on standard error, or JSON lines on
//! standard output. `cli::render` passes every event of the render to it.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use latentfarm_common::console::{print_line, tell};
use latentfarm_common::ids::WorkKind;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use super::events;
use crate::dispatch::JobEvent;
use crate::local::LocalNotice;
use crate::render::RenderEvent;
use crate::stitch::StitchStep;

/// Without a terminal, each phase prints a line for every tenth of its work.
const PARTS: u64 = 10;
/// A phase that is shorter than this prints no progress lines.
const QUIET_START: Duration = Duration::from_secs(2);

/// The output of one `latentfarm render`: its bar, its lines and its JSON events.
#[derive(Debug)]
pub(super) struct JobUi {
    json: bool,
    bar: ProgressBar,
    is_terminal: bool,
    /// Parts of the phase for which a line was printed, up to [`PARTS`].
    printed_parts: u64,
    /// Name and unit of the phase, such as `render` and `frames`.
    phase: (String, String),
    /// The cut of the video, while it runs beside the phase.
    cut: Option<Cut>,
    /// Whether the operator knows that standard output cannot be written.
    told_of_lost_output: Cell<bool>,
}

/// How far the video has been checked and cut. It runs beside the rendering, so it shares the bar: on a
/// terminal it is a part of the bar's text, elsewhere it has lines of its own.
#[derive(Debug)]
struct Cut {
    frames: u64,
    of: u64,
    begun: Instant,
    /// Parts of it for which a line was printed, up to [`PARTS`].
    printed_parts: u64,
}

impl JobUi {
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stderr().is_terminal() && !json;
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        Self {
            json,
            bar,
            is_terminal,
            printed_parts: 0,
            phase: (String::new(), String::new()),
            cut: None,
            told_of_lost_output: Cell::new(false),
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
                self.advance(0, "storing the sound");
            }
            RenderEvent::IngestProgress { source_frames, of } => self.show_cut(*source_frames, *of),
            RenderEvent::Note(text) => self.line(text),
            RenderEvent::Ingested {
                source_frames,
                segments,
                audio_windows,
                ..
            } => {
                self.cut = None;
                self.line(&format!(
                    "ingested {source_frames} source frames in {segments} segments, and the speech in {audio_windows} \
                     audio windows"
                ));
            }
            RenderEvent::DispatchBegins { frames } => self.begin("render", *frames, "frames"),
            RenderEvent::Job(event) => self.show_job(event),
            RenderEvent::Local(notice) => self.show_local(notice),
            RenderEvent::Draining => {
                self.warn("draining: the running chunks are finished first; Ctrl-C again stops at once");
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

    /// Runs `work` to its end and shows the events that it sends, the last ones included.
    pub(super) async fn show_while<T>(
        &mut self,
        mut events: UnboundedReceiver<RenderEvent>,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        let output = loop {
            tokio::select! {
                output = &mut work => break output,
                Some(event) = events.recv() => self.show(&event),
            }
        };
        while let Ok(event) = events.try_recv() {
            self.show(&event);
        }
        self.finish();
        output
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
                if let Some(Cut { frames, of, .. }) = &self.cut {
                    // Writing to a text cannot fail.
                    let _written = write!(text, ", video checked to {frames}/{of}");
                }
                if let Some(shortage) = &progress.shortage {
                    let waiting = progress.waiting_for_memory;
                    // Writing to a text cannot fail.
                    let _written = write!(text, ", {waiting} waiting for memory ({shortage})");
                }
                self.advance(done, &text);
            }
            JobEvent::Heartbeat(_) => {}
            // Analysis chunks are short: their ends and their failures are enough.
            JobEvent::ChunkStarted { chunk, .. } if chunk.work == WorkKind::Analyze => {}
            _ => self.line(&event.to_string()),
        }
    }

    /// Shows how far the video has been checked and cut.
    fn show_cut(&mut self, frames: u64, of: u64) {
        let printed_parts = self.cut.as_ref().map_or(0, |cut| cut.printed_parts);
        let begun = self.cut.as_ref().map_or_else(Instant::now, |cut| cut.begun);
        let parts = frames * PARTS / of.max(1);
        let is_due = parts > printed_parts && begun.elapsed() >= QUIET_START;
        self.cut = Some(Cut {
            frames,
            of,
            begun,
            printed_parts: if is_due { parts } else { printed_parts },
        });
        if is_due && !self.is_terminal {
            self.line(&format!("video: {frames}/{of} source frames checked and cut"));
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
                    "worker {worker} ended unexpectedly ({how}); it is started again in {seconds:.1} s"
                ));
            }
            LocalNotice::WorkerGivenUp { worker, why } => {
                self.warn(&format!("worker {worker} is not started again: {why}"));
            }
            LocalNotice::ServerRestarted { how } => {
                self.line(&format!(
                    "the private nats-server ended unexpectedly ({how}) and was started again"
                ));
            }
            // The job ends with an error that has the same text.
            LocalNotice::ServerLost { .. } => {}
        }
    }

    /// Begins the phase `what` of `total` units, such as `frames`.
    pub(super) fn begin(&mut self, what: &str, total: u64, unit: &str) {
        self.bar.finish_and_clear();
        self.printed_parts = 0;
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

    /// Sets how many units of the phase are done, with a short text such as the number of workers.
    pub(super) fn advance(&mut self, done: u64, text: &str) {
        self.bar.set_position(done);
        self.bar.set_message(text.to_owned());
        let total = self.bar.length().unwrap_or(0);
        if self.is_terminal || self.json || total == 0 {
            return;
        }
        let parts = done * PARTS / total;
        if parts > self.printed_parts && self.bar.elapsed() >= QUIET_START {
            self.printed_parts = parts;
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

    /// Prints a readable line above the bar, on standard error; in JSON mode it prints nothing.
    pub(super) fn line(&self, text: &str) {
        if !self.json {
            self.bar.suspend(|| tell(text));
        }
    }

    /// Prints an event as a JSON line on standard output, in JSON mode only.
    pub(super) fn event(&self, event: &Value) {
        if self.json {
            self.print(event);
        }
    }

    /// Prints the command's result on standard output; in JSON mode the events contain it.
    pub(super) fn result(&self, text: &str) {
        if !self.json {
            self.print(text);
        }
    }

    /// Prints a line on standard output. The render goes on if nobody can read it any more: its product is the
    /// output file, and the exit code tells how it ended.
    fn print(&self, line: impl fmt::Display) {
        if let Err(error) = print_line(line)
            && !self.told_of_lost_output.replace(true)
        {
            let what = if self.json { "events" } else { "report" };
            self.warn(&format!(
                "standard output cannot be written ({error}): the render goes on without its {what}"
            ));
        }
    }

    /// Prints text that the operator must read in both modes, on standard error.
    pub(super) fn warn(&self, text: &str) {
        self.bar.suspend(|| tell(text));
    }
}
