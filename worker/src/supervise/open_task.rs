//! Opens a render task: fetches its inputs, and gives it to a media child. `render.rs` does so for the task that it runs,
//! and the runner's `Preparer` for one that is held.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use latentfarm_common::wire::media::{LocalSlice, MediaRequest, RenderRequest};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::{RenderInput, RenderTask, Task};
use tempfile::TempPath;

use super::failure_class::media_lost;
use super::fetch::Fetcher;
use super::warm_media::{MediaChild, WarmMedia};

/// A task whose inputs are on this machine.
pub(super) struct OpenedTask {
    pub(super) input: RenderInput,
    segments: Vec<LocalSlice>,
    /// How long it took to fetch the inputs.
    pub(super) fetch: Duration,
    /// The media child that works on the task, if it was begun.
    pub(super) media: Option<StartedMedia>,
}

/// A media child that has the request of a task, and the file that it writes.
pub(super) struct StartedMedia {
    pub(super) child: MediaChild,
    pub(super) output: TempPath,
}

impl OpenedTask {
    /// Fetches the inputs of a task.
    pub(super) async fn fetch(body: &RenderTask, fetcher: &Fetcher) -> Result<Self, Failure> {
        let started = Instant::now();
        let input: RenderInput = fetcher.message(&body.input).await?;
        let segments = fetcher.slices(&input.segments).await?;
        Ok(Self {
            input,
            segments,
            fetch: started.elapsed(),
            media: None,
        })
    }

    /// Gives the task to a media child.
    pub(super) async fn start(
        &mut self,
        mut child: MediaChild,
        task: &Task,
        body: &RenderTask,
        scratch: &Path,
    ) -> Result<(), Failure> {
        let output = segment_file(scratch).map_err(|error| Failure::WorkerUnfit {
            message: format!(
                "cannot write to the scratch folder `{}`: {error}",
                scratch.display()
            ),
        })?;
        tracing::debug!(chunk = %task.chunk, "a media child begins a chunk");
        let request = RenderRequest {
            source: body.source.clone(),
            encoder: body.encoder.clone(),
            resolution_px: body.model.resolution_px,
            range: body.range,
            segments: std::mem::take(&mut self.segments),
            frames: self.input.frames.clone(),
            output: output.display().to_string(),
        };
        child
            .send(&MediaRequest::Render(request))
            .await
            .map_err(|error| media_lost(&error, "media", None))?;
        self.media = Some(StartedMedia { child, output });
        Ok(())
    }
}

/// Makes an empty file for a segment, which goes when its path is dropped.
fn segment_file(scratch: &Path) -> io::Result<TempPath> {
    let file = tempfile::Builder::new()
        .prefix("segment-")
        .suffix(".nut")
        .tempfile_in(scratch)?;
    Ok(file.into_temp_path())
}

/// Fetches the inputs of a task that is held, and has its first crops cut out if the host has the memory for a second
/// media child.
pub(super) async fn open_ahead(
    media: &WarmMedia,
    task: &Task,
    body: &RenderTask,
    fetcher: &Fetcher,
) -> Result<OpenedTask, Failure> {
    let mut opened = OpenedTask::fetch(body, fetcher).await?;
    if let Some(child) = media.take_beside().await? {
        opened.start(child, task, body, fetcher.scratch()).await?;
    }
    Ok(opened)
}
