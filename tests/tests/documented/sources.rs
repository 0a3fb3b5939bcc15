//! Collects every command that the documentation, the help texts and the programs' messages print.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use farm_tests::program;

use crate::literals::string_literals;

/// The pages whose commands a reader would give.
const PAGES: [&str; 5] = [
    "README.md",
    "CONTRIBUTING.md",
    "deploy/README.md",
    "worker/README.md",
    "worker/bench-pytorch/README.md",
];
/// The folders of sources whose messages may print commands.
const SOURCES: [&str; 6] = [
    "common/src",
    "coordinator/src",
    "worker/src",
    "worker/engine/src",
    "worker/face/src",
    "worker/latentsync/src",
];
/// The programs with help texts.
const PROGRAMS: [&str; 3] = ["latentfarm", "latentfarm-worker", "latentfarm-engine"];
/// What a command begins with, after the environment variables that it sets.
const BEGINNINGS: [&str; 8] = [
    "latentfarm ",
    "latentfarm-worker ",
    "latentfarm-engine ",
    "nats-server --",
    "cargo ",
    "ffmpeg -",
    "deploy/",
    ".ci/",
];

/// Commands as they are printed, each with the places that print it.
pub(crate) type Printed = BTreeMap<String, Vec<String>>;

/// Returns the folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the workspace")
}

/// Collects the commands of all pages, help texts and messages.
pub(crate) fn collect(help: &BTreeMap<String, String>) -> Printed {
    let mut printed = Printed::new();
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).expect("a page");
        for command in of_page(&text) {
            printed.entry(command).or_default().push(page.to_owned());
        }
    }
    for (name, text) in help {
        for command in of_help(text) {
            printed.entry(command).or_default().push(format!("{name} --help"));
        }
    }
    for folder in SOURCES {
        visit(&root().join(folder), &mut |path, text| {
            for command in string_literals(text)
                .iter()
                .flat_map(|literal| of_message(literal))
            {
                let place = path.display().to_string();
                printed.entry(command).or_default().push(place);
            }
        });
    }
    printed
}

/// Returns true for a form such as `weights synth --size tiny|small`, which describes commands and is none.
pub(crate) fn is_synopsis(command: &str) -> bool {
    ["[", "|", "..."].iter().any(|sign| command.contains(sign))
}

/// Returns true if `text` begins as a command does, after any `NAME=value` in front of it.
fn is_command(text: &str) -> bool {
    let mut rest = text;
    while let Some((word, more)) = rest.split_once(' ') {
        // A value may hold spaces inside `$(…)`.
        let Some((name, value)) = word.split_once('=') else {
            break;
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
            break;
        }
        rest = match value.strip_prefix("$(") {
            Some(_) => more.split_once(") ").map_or("", |(_, after)| after),
            None => more,
        };
    }
    BEGINNINGS.iter().any(|beginning| rest.starts_with(beginning))
}

/// Returns the commands of a Markdown page: the lines of its shell blocks, the lines after a prompt in its
/// other blocks, and the commands in its text. An `export` belongs to the line after it.
fn of_page(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut prose = String::new();
    let mut block: Option<String> = None;
    let mut exported = String::new();
    for line in text.lines() {
        let line = line.trim();
        match (&block, line.strip_prefix("```")) {
            (None, Some(language)) => block = Some(language.to_owned()),
            (Some(_), Some(_)) => block = None,
            (None, None) => {
                prose.push_str(line);
                prose.push(if line.is_empty() { '\n' } else { ' ' });
            }
            (Some(language), None) if language == "sh" => {
                let command = line.split(" #").next().unwrap_or_default().trim();
                if command.starts_with("export ") {
                    exported = format!("{command} && ");
                } else if !command.is_empty() {
                    commands.push(std::mem::take(&mut exported) + command);
                }
            }
            (Some(_), None) => commands.extend(line.strip_prefix("$ ").map(str::to_owned)),
        }
    }
    commands.extend(spans(&prose));
    commands
}

/// Returns the examples of a help text.
fn of_help(text: &str) -> Vec<String> {
    let mut lines = text.lines();
    let mut commands = Vec::new();
    while let Some(line) = lines.next() {
        if line == "Example:" || line == "Examples:" {
            let examples = lines.by_ref().map_while(|line| line.strip_prefix("  "));
            commands.extend(examples.map(|example| example.trim().to_owned()));
        }
    }
    commands
}

/// Returns the commands in the text of a message: those between backticks, and those that a line ends with,
/// alone or after a colon. The examples of help texts are found here too.
fn of_message(text: &str) -> Vec<String> {
    let mut commands = spans(text);
    for line in text.lines().filter(|line| !line.contains('`')) {
        let line = line.trim();
        let ends = line
            .match_indices(": ")
            .map(|(at, colon)| &line[at + colon.len()..]);
        let command = std::iter::once(line).chain(ends).find(|end| is_command(end));
        commands.extend(command.map(str::to_owned));
    }
    commands
}

/// Returns the commands between backticks.
fn spans(text: &str) -> Vec<String> {
    let spans = text
        .split('\n')
        .flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    let spans = spans.map(|span| span.replace("\\|", "|"));
    spans.filter(|span| is_command(span)).collect()
}

/// Returns the help texts of all programs and subcommands by their names, such as `latentfarm-worker run`.
pub(crate) fn help_texts() -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let mut waiting: Vec<String> = PROGRAMS.iter().map(|&name| name.to_owned()).collect();
    while let Some(name) = waiting.pop() {
        let mut words = name.split(' ');
        let output = Command::new(program(words.next().unwrap_or_default()))
            .args(words)
            .arg("--help")
            // An example stays on one line.
            .env("COLUMNS", "1000")
            .output()
            .expect("run a program");
        assert!(output.status.success(), "{name} --help");
        let text = String::from_utf8(output.stdout).expect("a help text");
        let listed = text.lines().skip_while(|line| *line != "Commands:").skip(1);
        let listed = listed.map_while(|line| line.split_whitespace().next());
        waiting.extend(
            listed
                .filter(|&subcommand| subcommand != "help")
                .map(|subcommand| format!("{name} {subcommand}")),
        );
        texts.insert(name, text);
    }
    texts
}

/// Calls `each` with every source file below `folder` that is no test, up to its first unit test.
fn visit(folder: &Path, each: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("test") {
            continue;
        }
        if path.is_dir() {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
            each(&path, &text[..end]);
        }
    }
}
