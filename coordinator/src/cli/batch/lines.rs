//! The lines of a batch: what each says of a job, as a command line.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use clap::Parser as _;
use latentfarm_common::ids::JobId;
use serde_json::{Map, Value};

use crate::cli::args::{LineArgs, SubmittedJob};
use crate::cli::exit::{CommandError, reason};
use crate::cli::submit::name_of;

/// The options of a line that are paths.
const PATHS: [&str; 4] = ["video", "audio", "output", "weights"];

/// A line of the file, and its command line.
pub(super) struct Line {
    pub(super) number: usize,
    /// What people call the job.
    pub(super) name: String,
    /// The number of the line whose job must be complete before this one's begins.
    pub(super) follows: Option<usize>,
    words: Vec<String>,
}

/// Why a line is wrong.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) number: usize,
    pub(super) reason: String,
}

/// Parses the command line of a line.
pub(super) fn parsed(line: &Line) -> Result<SubmittedJob, CommandError> {
    let parsed = LineArgs::try_parse_from(&line.words);
    parsed
        .map(|args| args.job)
        .map_err(|refusal| CommandError::refused(anyhow!(reason(&refusal))))
}

/// Returns the lines of a batch as command lines, and those that have none. Empty lines are passed over.
pub(super) fn lines(
    text: &str,
    is_csv: bool,
    folder: &Path,
    weights: Option<&Path>,
) -> (Vec<Line>, Vec<Wrong>) {
    let objects = if is_csv {
        csv_objects(text)
    } else {
        json_objects(text)
    };
    let (mut lines, mut wrong) = (Vec::<Line>::new(), Vec::new());
    for (number, object) in objects {
        let line = object.and_then(|object| line(number, object, &lines, folder, weights));
        match line {
            Ok(line) => lines.push(line),
            Err(error) => wrong.push(Wrong {
                number,
                reason: format!("{error:#}"),
            }),
        }
    }
    (lines, wrong)
}

/// A job of a file, by the names of its options.
type Object = Map<String, Value>;

/// Returns the objects of a file with one on each line, with the numbers of the lines.
fn json_objects(text: &str) -> Vec<(usize, anyhow::Result<Object>)> {
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty());
    let object = |line| serde_json::from_str(line).context("it is not a JSON object");
    lines.map(|(number, line)| (number, object(line))).collect()
}

/// Returns the objects of a table whose first line names the options. An empty cell leaves an option out.
fn csv_objects(text: &str) -> Vec<(usize, anyhow::Result<Object>)> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut objects = Vec::new();
    for (row, record) in reader.deserialize::<BTreeMap<String, String>>().enumerate() {
        // A cell with line breaks makes a row of several lines, of which the first counts.
        let number = match &record {
            Ok(_) => row + 2,
            Err(error) => error
                .position()
                .map_or(row + 2, |at| usize::try_from(at.line()).unwrap_or(row + 2)),
        };
        let object = record.context("it is no row of the table").map(|cells| {
            let cells = cells.into_iter().filter(|(_, cell)| !cell.is_empty());
            let value = |cell: String| match cell.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::String(cell),
            };
            cells.map(|(name, cell)| (name, value(cell))).collect()
        });
        objects.push((number, object));
    }
    objects
}

/// Makes a line of an object. `earlier` are the lines before it, whose jobs it may follow.
fn line(
    number: usize,
    mut object: Object,
    earlier: &[Line],
    folder: &Path,
    weights: Option<&Path>,
) -> anyhow::Result<Line> {
    let text = |object: &Object, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let output = text(&object, "output").map(|output| name_of(Path::new(&output)));
    let name = text(&object, "name").or(output).unwrap_or_default();
    let mut follows = None;
    // What is no job's id is the name of an earlier line.
    if let Some(after) = text(&object, "after").filter(|after| after.parse::<JobId>().is_err()) {
        object.remove("after");
        let found = earlier.iter().rev().find(|line| line.name == after);
        let found = found.with_context(|| format!("`after` names no job and no earlier line: `{after}`"))?;
        follows = Some(found.number);
    }
    Ok(Line {
        number,
        name,
        follows,
        words: words(object, folder, weights)?,
    })
}

/// Returns the command line that an object describes.
fn words(object: Object, folder: &Path, weights: Option<&Path>) -> anyhow::Result<Vec<String>> {
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
        let (mut lines, wrong) = lines(line, false, Path::new("/jobs"), Some(Path::new("/weights")));
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
        let (lines, wrong) = lines(text, false, Path::new(""), None);
        assert_eq!((lines.len(), lines[0].number), (1, 2));
        assert_eq!((wrong.len(), wrong[0].number), (1, 4));
    }

    #[test]
    fn a_table_says_the_same_as_lines_of_objects() {
        let table = "video, audio, output, steps, lossless, keep_tail, name\n\
                     a.mp4, a.wav, a-out.mp4, 7, true, false,\"one, the first\"\n\
                     b.mp4, b.wav\n\
                     c.mp4, c.wav, c-out.mp4, , , ,\n";
        let (found, wrong) = lines(table, true, Path::new("/jobs"), None);
        let one = r#"{"video": "a.mp4", "audio": "a.wav", "output": "a-out.mp4", "steps": 7, "lossless": true,
            "name": "one, the first"}"#;
        let three = r#"{"video": "c.mp4", "audio": "c.wav", "output": "c-out.mp4"}"#;
        let text = [&one.replace('\n', " "), three].join("\n");
        let (expected, _) = lines(&text, false, Path::new("/jobs"), None);
        let words = |lines: &[Line]| -> Vec<Vec<String>> {
            let sorted = lines.iter().map(|line| {
                let mut words = line.words.clone();
                words.sort();
                words
            });
            sorted.collect()
        };
        assert_eq!(words(&found), words(&expected));
        assert_eq!(found.iter().map(|line| line.number).collect::<Vec<_>>(), [2, 4]);
        assert_eq!((wrong.len(), wrong[0].number), (1, 3), "{wrong:?}");
    }

    #[test]
    fn a_line_may_follow_an_earlier_one_by_its_name() {
        let follows = |after: &str| {
            let first = r#"{"video": "a", "audio": "b", "output": "x/first.mp4"}"#;
            let second = format!(r#"{{"video": "a", "audio": "b", "output": "c.mp4", "after": "{after}"}}"#);
            let (lines, wrong) = lines(&[first, &second].join("\n"), false, Path::new(""), None);
            wrong.first().map_or_else(
                || {
                    Ok((
                        lines[1].follows,
                        lines[1].words.iter().any(|word| word.starts_with("--after")),
                    ))
                },
                |wrong| Err(wrong.reason.clone()),
            )
        };
        assert_eq!(follows("first.mp4"), Ok((Some(1), false)));
        assert_eq!(follows("0123456789abcdef"), Ok((None, true)), "a job of the farm");
        assert!(follows("c.mp4").unwrap_err().contains("no earlier line: `c.mp4`"));
    }
}
