//! `latentfarm explain`: why each chunk of a job is where it is, from the job's journal, or from what the farm
//! recorded.

mod farm;
mod story;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use latentfarm_common::ids::{ChunkName, JobId};

use super::args::ExplainArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use crate::job::folder::job_folder_of;
use crate::journal::{self, Line};
use story::Story;

/// Which chunk is asked for: `r00003`, `a00000`, or a render chunk's number.
fn chunk_name(text: &str) -> Option<ChunkName> {
    let name = text.parse().or_else(|_| format!("r{text}").parse());
    name.ok()
}

pub(super) fn main(args: &ExplainArgs) -> Result<ExitStatus, CommandError> {
    let chunk = match &args.chunk {
        None => None,
        Some(text) => Some(chunk_name(text).ok_or_else(|| {
            CommandError::refused(anyhow::anyhow!(
                "`{text}` is not a chunk: give its number, or r00003 for rendering, a00003 for face analysis"
            ))
        })?),
    };
    let lines = match (&args.nats, folder_of(&args.job)) {
        (_, Some(folder)) => read(&folder)?,
        (Some(url), None) => recorded(url, &args.job)?,
        (None, None) => {
            let error = anyhow::anyhow!(
                "`{0}` is neither a job folder nor an output with `{0}.latentfarm` beside it: the folder goes when \
                 a job is complete, unless --keep was given",
                args.job.display()
            );
            return Err(CommandError::refused(error));
        }
    };
    let story = Story::of(&lines);
    let text = match &chunk {
        Some(name) if !story.has(*name) => {
            let error = anyhow::anyhow!("the job has no chunk {name}, or nothing has happened to it yet");
            return Err(CommandError::refused(error));
        }
        _ if args.json => story.to_json(chunk).to_string(),
        Some(name) => story.of_chunk(*name),
        None => story.table(),
    };
    // Nobody reading any more is no error.
    let _closed = writeln!(io::stdout(), "{text}");
    Ok(ExitStatus::Complete)
}

/// The job folder that a path means.
fn folder_of(job: &Path) -> Option<PathBuf> {
    job_folder_of(job, &["job", "journal.jsonl"])
}

fn read(folder: &Path) -> Result<Vec<Line>, CommandError> {
    let lines = journal::read(folder)
        .with_context(|| format!("cannot read the journal in `{}`", folder.display()))?;
    if lines.is_empty() {
        let error = anyhow::anyhow!("nothing has been dispatched in `{}` yet", folder.display());
        return Err(CommandError::refused(error));
    }
    Ok(lines)
}

fn recorded(url: &str, job: &Path) -> Result<Vec<Line>, CommandError> {
    let text = job.to_string_lossy();
    let id: JobId = text
        .parse()
        .with_context(|| format!("`{text}` is no job folder, no output, and no job id"))
        .map_err(CommandError::refused)?;
    let lines = runtime(1)?.block_on(farm::recorded(url, id))?;
    if lines.is_empty() {
        let error = anyhow::anyhow!("the farm at {url} has recorded nothing of job {id}");
        return Err(CommandError::refused(error));
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
            assert_eq!(chunk_name(text), None, "{text}");
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
