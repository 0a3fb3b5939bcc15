//! `latentfarm submit --batch`: the jobs of a file, all of which are checked before the first is queued.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::Parser as _;
use latentfarm_common::error::one_line;
use serde_json::{Map, Value, json};

use super::args::{BatchArgs, LineArgs, SubmittedJob};
use super::exit::{CommandError, ExitStatus};
use super::jobs;
use super::submit::{Submitter, settings_of};
use crate::farm::Then;

/// The options of a line that are paths.
const PATHS: [&str; 4] = ["video", "audio", "output", "weights"];

/// A line of the file, and its command line.
struct Line {
    number: usize,
    words: Vec<String>,
}

/// Why a line is wrong.
#[derive(Debug)]
struct Wrong {
    number: usize,
    reason: String,
}

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
        let (lines, mut wrong) = lines(&text, &folder, batch.weights.as_deref());
        let mut right = Vec::new();
        let mut outputs = BTreeMap::new();
        for line in lines {
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
        let mut submitted = Vec::new();
        for line in right {
            let (options, settings) = settings_of(parsed(&line)?).map_err(CommandError::refused)?;
            let target = settings.render.target.clone();
            let Some(job) = self.check_and_tell(settings).await? else {
                return Ok(ExitStatus::Interrupted);
            };
            let Some(view) = self.hand_over(job, options, Then::Return).await? else {
                return Ok(ExitStatus::Interrupted);
            };
            if !is_waiting {
                jobs::print(&view, self.json)?;
            }
            submitted.push((view, target));
        }
        for (view, target) in submitted.into_iter().filter(|_| is_waiting) {
            match self.wait_and_write(view, &target).await? {
                ExitStatus::Complete => {}
                ExitStatus::Interrupted => return Ok(ExitStatus::Interrupted),
                _ => status = ExitStatus::Incomplete,
            }
        }
        Ok(status)
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

fn parsed(line: &Line) -> Result<SubmittedJob, CommandError> {
    let parsed = LineArgs::try_parse_from(&line.words);
    parsed.map(|args| args.job).map_err(|error| {
        let text = error.to_string();
        let reason = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = reason.trim_start_matches("error: ").split_whitespace().collect();
        CommandError::refused(anyhow!(words.join(" ")))
    })
}

/// Returns the lines of a batch as command lines, and those that have none. Empty lines are passed over.
fn lines(text: &str, folder: &Path, weights: Option<&Path>) -> (Vec<Line>, Vec<Wrong>) {
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        match words(line, folder, weights) {
            Ok(words) => lines.push(Line { number, words }),
            Err(error) => wrong.push(Wrong {
                number,
                reason: format!("{error:#}"),
            }),
        }
    }
    (lines, wrong)
}

/// Returns the command line that an object describes.
fn words(line: &str, folder: &Path, weights: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let object: Map<String, Value> = serde_json::from_str(line).context("it is not a JSON object")?;
    let mut words = Vec::new();
    let mut inputs = BTreeMap::new();
    if let Some(weights) = weights.filter(|_| !object.contains_key("weights")) {
        words.push(format!("--weights={}", weights.display()));
    }
    for (key, value) in object {
        let name = key.replace('_', "-");
        let text = match value {
            Value::Null | Value::Bool(false) => continue,
            Value::Bool(true) => {
                words.push(format!("--{name}"));
                continue;
            }
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Array(_) | Value::Object(_) => {
                bail!("`{key}` is neither a text nor a number nor true or false")
            }
        };
        let text = if PATHS.contains(&name.as_str()) {
            let path = folder.join(&text);
            path.to_str()
                .context("the folder's name is not UTF-8")?
                .to_owned()
        } else {
            text
        };
        if name == "video" || name == "audio" {
            inputs.insert(name, text);
        } else {
            words.push(format!("--{name}={text}"));
        }
    }
    // The audio file is the second one.
    words.push("--".to_owned());
    for name in ["video", "audio"] {
        words.push(
            inputs
                .remove(name)
                .with_context(|| format!("it has no `{name}`"))?,
        );
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(line: &str) -> Result<SubmittedJob, String> {
        let (mut lines, wrong) = lines(line, Path::new("/jobs"), Some(Path::new("/weights")));
        match lines.pop() {
            Some(line) => parsed(&line).map_err(|error| error.source.to_string()),
            None => Err(wrong[0].reason.clone()),
        }
    }

    #[test]
    fn a_line_may_set_every_option_and_its_paths_begin_at_the_file() {
        let job = job(
            r#"{"video": "-a.mp4", "audio": "/in/a.wav", "output": "out/a.mp4", "steps": 7, "lossless": true,
            "keep_tail": false, "name": "the first", "priority": 0, "audio-offset": "-0.5", "seed": null}"#
                .replace('\n', " ")
                .as_str(),
        )
        .unwrap();
        let args = &job.job;
        assert_eq!(args.video, Path::new("/jobs/-a.mp4"));
        assert_eq!(args.audio, Path::new("/in/a.wav"));
        assert_eq!(args.output, Path::new("/jobs/out/a.mp4"));
        assert_eq!(args.weights.as_deref(), Some(Path::new("/weights")));
        assert_eq!(
            (args.steps, args.lossless, args.keep_tail),
            (Some(7), true, false)
        );
        assert_eq!(args.audio_offset.microseconds(), -500_000);
        assert_eq!((job.name.as_deref(), job.priority), (Some("the first"), 0));
    }

    #[test]
    fn a_wrong_line_is_told_with_its_reason() {
        for (line, part) in [
            ("not json", "not a JSON object"),
            (r#"{"audio": "a.wav", "output": "a.mp4"}"#, "it has no `video`"),
            (r#"{"video": "a", "audio": "b"}"#, "--output"),
            (
                r#"{"video": "a", "audio": "b", "output": "c.mp4", "speed": 3}"#,
                "--speed",
            ),
            (
                r#"{"video": "a", "audio": "b", "output": "c.mp4", "steps": 0}"#,
                "0 is not in 1..=1000",
            ),
            (
                r#"{"video": "a", "audio": "b", "output": "c.mp4", "steps": [1]}"#,
                "`steps` is neither",
            ),
            (
                r#"{"video": "a", "audio": "b", "output": "c.mp4", "nats": "nats://x"}"#,
                "--nats",
            ),
        ] {
            let reason = job(line).unwrap_err();
            assert!(reason.contains(part), "{line}: {reason}");
        }
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = "\n{\"video\": \"a\", \"audio\": \"b\"}\n\n?\n";
        let (lines, wrong) = lines(text, Path::new(""), None);
        assert_eq!((lines.len(), lines[0].number), (1, 2));
        assert_eq!((wrong.len(), wrong[0].number), (1, 4));
    }
}
