//! Has media processes of `latentfarm-worker` look for the faces of a video, each in a part of it. The parts
//! begin at whole units of 16 frames, so that their number does not change what is found.

use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;

use latentfarm_common::child::die_with_parent;
use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::SourceSpec;
use latentfarm_common::wire::media::{LocalSlice, MediaFailure, MediaReply, MediaRequest};
use latentfarm_common::wire::outcome::FrameObservation;
use latentfarm_common::wire::pipe::{self, PipeError};

/// The frames of a unit of the face analysis.
const UNIT: u64 = 16;

/// Why the faces could not be found.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("cannot start a media process of latentfarm-worker")]
    Start(#[source] std::io::Error),
    #[error("the media process cannot be reached")]
    Pipe(#[from] PipeError),
    #[error("the media process ended early: its reason is in the lines above")]
    Ended,
    #[error("{0}")]
    BadInput(String),
    #[error("{0}")]
    Failed(String),
    #[error("the media process answered another request")]
    Unexpected,
    #[error("stopped on request")]
    Stopped,
}

/// A media process, which is killed when this is dropped.
struct MediaProcess(Child);

impl Drop for MediaProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// Returns the faces of every source frame of the video that `slices` hold.
pub(super) fn observe(
    worker: &Path,
    source: &SourceSpec,
    slices: &[LocalSlice],
    processes: usize,
    shutdown: &Shutdown,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Vec<FrameObservation>, ObserveError> {
    let done = AtomicU64::new(0);
    let report = |more: u64| {
        let now = done.fetch_add(more, Ordering::Relaxed) + more;
        progress(now, source.frames);
    };
    let parts = parts(source.frames, processes);
    let found = std::thread::scope(|scope| {
        let running: Vec<_> = parts
            .into_iter()
            .map(|range| {
                let (segments, report) = (slices_for(slices, range), &report);
                scope.spawn(move || observe_part(worker, source, range, segments, shutdown, report))
            })
            .collect();
        let ended = running.into_iter().map(ScopedJoinHandle::join);
        ended
            .map(|part| part.unwrap_or(Err(ObserveError::Ended)))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// Divides the frames into at most `processes` parts of whole units.
fn parts(frames: u64, processes: usize) -> Vec<FrameRange> {
    let length = frames
        .div_ceil(processes.max(1) as u64)
        .next_multiple_of(UNIT)
        .max(UNIT);
    let starts = (0..frames).step_by(usize::try_from(length).unwrap_or(usize::MAX));
    starts
        .map(|start| FrameRange::new(start, (start + length).min(frames)))
        .collect()
}

/// Returns the slices that a reader of `range` needs, with the frame before it.
fn slices_for(slices: &[LocalSlice], range: FrameRange) -> Vec<LocalSlice> {
    let from = range.start.saturating_sub(1);
    let is_needed =
        |slice: &&LocalSlice| slice.first < range.end && slice.first + slice.pts.len() as u64 > from;
    slices.iter().filter(is_needed).cloned().collect()
}

fn observe_part(
    worker: &Path,
    source: &SourceSpec,
    range: FrameRange,
    segments: Vec<LocalSlice>,
    shutdown: &Shutdown,
    report: &dyn Fn(u64),
) -> Result<Vec<FrameObservation>, ObserveError> {
    let mut command = Command::new(worker);
    command.arg("media").stdin(Stdio::piped()).stdout(Stdio::piped());
    die_with_parent(&mut command);
    let mut process = MediaProcess(command.spawn().map_err(ObserveError::Start)?);
    let (Some(input), Some(output)) = (process.0.stdin.take(), process.0.stdout.take()) else {
        return Err(ObserveError::Ended);
    };
    let request = MediaRequest::Analyze {
        source: source.clone(),
        range,
        segments,
    };
    pipe::write(&mut BufWriter::new(input), &request)?;
    let mut replies = BufReader::new(output);
    let mut looked_at = 0;
    loop {
        if !shutdown.is_running() {
            return Err(ObserveError::Stopped);
        }
        match pipe::read::<MediaReply>(&mut replies)?.ok_or(ObserveError::Ended)? {
            MediaReply::Progress { frames_done } => {
                let now = u64::from(frames_done);
                report(now.saturating_sub(looked_at));
                looked_at = now;
            }
            MediaReply::Analyzed { observations, .. } => return Ok(observations.frames),
            MediaReply::Failed(MediaFailure::BadInput { message }) => {
                return Err(ObserveError::BadInput(message));
            }
            MediaReply::Failed(MediaFailure::Other { message }) => {
                return Err(ObserveError::Failed(message));
            }
            MediaReply::Crops { .. } | MediaReply::Rendered { .. } => return Err(ObserveError::Unexpected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_frames_and_begin_at_units() {
        for frames in [1, 15, 16, 17, 83, 1000] {
            for processes in [1, 2, 3, 8] {
                let parts = parts(frames, processes);
                assert!(parts.len() <= processes && parts[0].start == 0, "{parts:?}");
                assert_eq!(parts[parts.len() - 1].end, frames);
                assert!(
                    parts.windows(2).all(|pair| pair[0].end == pair[1].start),
                    "{parts:?}"
                );
                assert!(
                    parts
                        .iter()
                        .all(|part| part.start % UNIT == 0 && !part.is_empty())
                );
            }
        }
    }
}
