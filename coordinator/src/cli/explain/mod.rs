//! `latentfarm explain`: explains where each chunk of a job is and why. It reads the journal in the job
//! folder or, with `--nats`, that of the farm's coordinator or what the farm's server recorded.

mod describe;
mod farm;
mod history;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use latentfarm_common::ids::{ChunkName, JobId};

use super::args::ExplainArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use super::stdout::print_result;
use crate::job::folder::job_folder_of;
use crate::journal::{self, JournalLine};
use history::JobHistory;

/// Parses a chunk's name on the command line: `r00003`, `a00000`, or the number of a render chunk.
fn chunk_name(text: &str) -> anyhow::Result<ChunkName> {
    let name = text.parse().or_else(|_| format!("r{text}").parse());
    name.map_err(|_| {
        anyhow!("`{text}` is not a chunk: give its number, or r00003 for rendering, a00003 for face analysis")
    })
}

pub(super) fn main(args: &ExplainArgs) -> Result<ExitStatus, CommandError> {
    let chunk = args.chunk.as_deref().map(chunk_name).transpose();
    let chunk = chunk.map_err(CommandError::refused)?;
    let lines = match (&args.nats, folder_of(&args.job)) {
        (_, Some(folder)) => read(&folder)?,
        (Some(url), None) => recorded(url, &args.job)?,
        (None, None) => {
            return Err(CommandError::refused(anyhow!(
                "`{0}` is neither a job folder nor an output with `{0}.latentfarm` beside it: the folder is removed when \
                 the job is complete, unless --keep was given",
                args.job.display()
            )));
        }
    };
    let history = JobHistory::from_lines(&lines);
    let text = match &chunk {
        Some(name) if !history.chunks.contains_key(name) => {
            return Err(CommandError::refused(anyhow!(
                "the job has no chunk {name}, or nothing has happened to it yet"
            )));
        }
        _ if args.json => history.to_json(chunk).to_string(),
        Some(name) => describe::chunk(&history, *name),
        None => describe::table(&history),
    };
    print_result(text)?;
    Ok(ExitStatus::Complete)
}

/// Returns the job folder that a path names: the path itself, or the folder beside an output file.
fn folder_of(job: &Path) -> Option<PathBuf> {
    job_folder_of(job, &["job", "journal.jsonl"])
}

fn read(folder: &Path) -> Result<Vec<JournalLine>, CommandError> {
    let lines = journal::read(folder)
        .with_context(|| format!("cannot read the journal in `{}`", folder.display()))?;
    require_lines(lines, || {
        format!("nothing has been dispatched in `{}` yet", folder.display())
    })
}

fn recorded(url: &str, job: &Path) -> Result<Vec<JournalLine>, CommandError> {
    let text = job.to_string_lossy();
    let id: JobId = text
        .parse()
        .with_context(|| format!("`{text}` is no job folder, no output, and no job id"))
        .map_err(CommandError::refused)?;
    let lines = runtime(1)?.block_on(farm::lines(url, id))?;
    require_lines(lines, || {
        format!("the farm at {url} has recorded nothing of job {id}")
    })
}

fn require_lines(
    lines: Vec<JournalLine>,
    otherwise: impl FnOnce() -> String,
) -> Result<Vec<JournalLine>, CommandError> {
    if lines.is_empty() {
        return Err(CommandError::refused(anyhow::Error::msg(otherwise())));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_named_in_three_ways() {
        assert_eq!(chunk_name("3").unwrap().to_string(), "r00003");
        assert_eq!(chunk_name("r00003").unwrap().to_string(), "r00003");
        assert_eq!(chunk_name("a12").unwrap().to_string(), "a00012");
        for text in ["", "r", "x3", "-1", "3.5"] {
            assert!(chunk_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_output_means_the_folder_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("out.mp4");
        assert_eq!(folder_of(&output), None);
        let folder = root.path().join("out.mp4.latentfarm");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("job"), b"x").unwrap();
        assert_eq!(folder_of(&output), Some(folder.clone()));
        assert_eq!(folder_of(&folder), Some(folder));
    }
}
