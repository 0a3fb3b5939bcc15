//! `latentfarm submit --batch`: the jobs of a file, all of which are checked before the first is queued.

mod lines;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::shutdown::Phase;
use serde_json::json;

use self::lines::{Line, Wrong, lines, parsed};
use super::args::BatchArgs;
use super::exit::{CommandError, ExitStatus};
use super::jobs;
use super::submit::{Submitter, settings_of};
use crate::farm::{JobView, SubmitError, Then};
use crate::stitch::OutputTarget;

/// How often a job that does not fit the farm's store is submitted again, while others make room.
const ROOM_RETRY: Duration = Duration::from_secs(10);

impl Submitter {
    /// Checks all lines, then hands the jobs over one after the other, and waits for them if that is wanted.
    pub(super) async fn submit_batch(
        &mut self,
        batch: BatchArgs,
        is_waiting: bool,
    ) -> Result<ExitStatus, CommandError> {
        let path = batch.batch.display().to_string();
        let text = fs::read_to_string(&batch.batch).with_context(|| format!("cannot read `{path}`"));
        let text = text.map_err(CommandError::refused)?;
        let folder = batch.batch.parent().unwrap_or(Path::new("")).to_owned();
        let is_csv = batch
            .batch
            .extension()
            .is_some_and(|extension| extension == "csv");
        let (lines, mut wrong) = lines(&text, is_csv, &folder, batch.weights.as_deref());
        let mut right: Vec<Line> = Vec::new();
        let mut outputs = BTreeMap::new();
        for line in lines {
            let is_left_out = |number: usize| !right.iter().any(|line| line.number == number);
            if let Some(before) = line.follows.filter(|before| is_left_out(*before)) {
                wrong.push(Wrong {
                    number: line.number,
                    reason: format!("it follows line {before}, which is wrong"),
                });
                continue;
            }
            match self.check_line(&line, &mut outputs).await {
                Ok(true) => right.push(line),
                Ok(false) => return Ok(ExitStatus::Interrupted),
                Err(error) => wrong.push(Wrong {
                    number: line.number,
                    reason: one_line(error.source.as_ref()),
                }),
            }
        }
        wrong.sort_by_key(|wrong| wrong.number);
        for Wrong { number, reason } in &wrong {
            self.ui.warn(&format!("{path}, line {number}: {reason}"));
            self.ui
                .event(&json!({ "event": "invalid", "line": number, "reason": reason }));
        }
        if !wrong.is_empty() && !batch.skip_invalid {
            let count = wrong.len();
            return Err(CommandError::refused(anyhow!(
                "{count} lines of `{path}` are wrong, so nothing was queued: correct them, or leave them out with \
                 --skip-invalid"
            )));
        }
        let mut status = if wrong.is_empty() {
            ExitStatus::Complete
        } else {
            ExitStatus::Incomplete
        };
        let mut submitted = VecDeque::new();
        let mut jobs_of_lines = BTreeMap::new();
        for line in right {
            let handed_over = loop {
                let after = line
                    .follows
                    .and_then(|before| jobs_of_lines.get(&before).copied());
                match self.hand_over_line(&line, after).await {
                    // Earlier jobs make room when they are complete and written.
                    Err(error) if is_waiting && is_full(&error) => {
                        let written = self.make_room(&mut submitted, &error).await?;
                        if written == ExitStatus::Interrupted {
                            return Ok(written);
                        }
                        status = worse(status, written);
                    }
                    handed_over => break handed_over?,
                }
            };
            let Some((view, target)) = handed_over else {
                return Ok(ExitStatus::Interrupted);
            };
            if !is_waiting {
                jobs::print(&view, self.json)?;
            }
            jobs_of_lines.insert(line.number, view.job);
            submitted.push_back((view, target));
        }
        for (view, target) in submitted.into_iter().filter(|_| is_waiting) {
            let written = self.wait_and_write(view, &target).await?;
            if written == ExitStatus::Interrupted {
                return Ok(written);
            }
            status = worse(status, written);
        }
        Ok(status)
    }

    /// Hands over the job of a line, which begins after another one if that is given. Returns how it stands and where its output goes; `None` if a signal came first.
    async fn hand_over_line(
        &mut self,
        line: &Line,
        after: Option<JobId>,
    ) -> Result<Option<(JobView, OutputTarget)>, CommandError> {
        let (mut options, settings) = settings_of(parsed(line)?).map_err(CommandError::refused)?;
        options.after = options.after.or(after);
        let target = settings.render.target.clone();
        let Some(job) = self.check_and_tell(settings).await? else {
            return Ok(None);
        };
        let view = self.hand_over(job, options, Then::Return).await?;
        Ok(view.map(|view| (view, target)))
    }

    /// Waits for the first of the submitted jobs and writes its output, so that the farm has more room; if there is
    /// none, waits for a moment, as others may make room.
    async fn make_room(
        &mut self,
        submitted: &mut VecDeque<(JobView, OutputTarget)>,
        full: &CommandError,
    ) -> Result<ExitStatus, CommandError> {
        if let Some((view, target)) = submitted.pop_front() {
            return self.wait_and_write(view, &target).await;
        }
        self.ui.warn(&format!(
            "waiting for room in the farm's store: {}",
            one_line(full.source.as_ref())
        ));
        tokio::select! {
            () = tokio::time::sleep(ROOM_RETRY) => Ok(ExitStatus::Complete),
            () = self.shutdown.reached(Phase::Draining) => Ok(ExitStatus::Interrupted),
        }
    }

    /// Checks the job of a line as far as that is possible without the farm. Returns false if a signal came
    /// first.
    async fn check_line(
        &mut self,
        line: &Line,
        outputs: &mut BTreeMap<PathBuf, usize>,
    ) -> Result<bool, CommandError> {
        let (_, settings) = settings_of(parsed(line)?).map_err(CommandError::refused)?;
        let output = settings.render.target.path().to_owned();
        if let Some(other) = outputs.insert(output, line.number) {
            return Err(CommandError::refused(anyhow!("line {other} has the same output")));
        }
        Ok(self.check(settings.render).await?.is_some())
    }
}

/// Whether a job was refused because the farm's store has no room for it now.
fn is_full(error: &CommandError) -> bool {
    error
        .source
        .downcast_ref::<SubmitError>()
        .is_some_and(SubmitError::is_full)
}

/// Returns the status of a batch after one more of its jobs has ended.
fn worse(before: ExitStatus, job: ExitStatus) -> ExitStatus {
    if job == ExitStatus::Complete {
        before
    } else {
        ExitStatus::Incomplete
    }
}
