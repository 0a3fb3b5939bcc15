//! The history of a job's chunks, collected from the lines of a journal, and each chunk's status after its
//! last line. `explain` prints it as JSON from here and as text from `describe`.

use std::collections::BTreeMap;

use latentfarm_common::ids::{ChunkName, JobId, WorkKind};
use latentfarm_common::queues::Queue;
use latentfarm_common::tags::Tags;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::memory::MemoryUse;
use serde_json::{Value, json};

use crate::dispatch::OomRecord;
use crate::journal::{JournalEntry, JournalLine};

/// The lines of a journal, grouped by chunk, with the figures of the job.
pub(super) struct JobHistory<'a> {
    pub(super) job: Option<JobId>,
    frames: u64,
    chunk_frames: u32,
    pub(super) render_chunks: usize,
    pub(super) analyze_chunks: usize,
    /// The tags of the workers that the job is given to, if the journal names them.
    pub(super) needed_tags: Tags,
    /// Time of the first line, in milliseconds since 1970.
    pub(super) start_ms: u64,
    pub(super) chunks: BTreeMap<ChunkName, Vec<&'a JournalLine>>,
    /// The lines about workers that were unfit or set aside.
    pub(super) set_aside: Vec<&'a JournalLine>,
}

/// The status of a chunk after the last of its lines.
#[derive(Default)]
pub(super) struct ChunkStatus<'a> {
    pub(super) state: String,
    pub(super) is_done: bool,
    pub(super) attempts: u32,
    pub(super) ooms: usize,
    /// The queue of its last task.
    pub(super) queue: Option<Queue>,
    /// Memory that its last finished attempt used.
    pub(super) used: Option<&'a MemoryUse>,
}

impl<'a> JobHistory<'a> {
    pub(super) fn from_lines(lines: &'a [JournalLine]) -> Self {
        let mut history = Self {
            job: None,
            frames: 0,
            chunk_frames: 0,
            render_chunks: 0,
            analyze_chunks: 0,
            needed_tags: Tags::NONE,
            start_ms: lines.first().map_or(0, |line| line.at_ms),
            chunks: BTreeMap::new(),
            set_aside: Vec::new(),
        };
        for line in lines {
            if let JournalEntry::RunBegins {
                job,
                frames,
                chunk_frames,
                render_chunks,
                analyze_chunks,
                needed_tags,
                ..
            } = &line.entry
            {
                history.job = Some(*job);
                (history.frames, history.chunk_frames) = (*frames, *chunk_frames);
                (history.render_chunks, history.analyze_chunks) = (*render_chunks, *analyze_chunks);
                history.needed_tags = needed_tags.clone();
            }
            if matches!(line.entry, JournalEntry::SetAside { .. }) {
                history.set_aside.push(line);
            }
            if let Some(chunk) = line.entry.chunk() {
                history.chunks.entry(chunk).or_default().push(line);
            }
        }
        history
    }

    /// Returns the seconds from the first line of the journal to this one.
    pub(super) fn seconds(&self, line: &JournalLine) -> f64 {
        line.at_ms.saturating_sub(self.start_ms) as f64 / 1000.0
    }

    /// Returns the output frames of a render chunk, or `None` if the journal has no figures of the job.
    pub(super) fn range(&self, chunk: ChunkName) -> Option<FrameRange> {
        if chunk.work != WorkKind::Render {
            return None;
        }
        let start = u64::from(chunk.index) * u64::from(self.chunk_frames);
        let end = (start + u64::from(self.chunk_frames)).min(self.frames);
        (start < end).then_some(FrameRange::new(start, end))
    }

    /// Returns the history of all chunks, or of one, as a JSON object.
    pub(super) fn to_json(&self, only: Option<ChunkName>) -> Value {
        let chunks = self
            .chunks
            .iter()
            .filter(|(name, _)| only.is_none_or(|only| only == **name));
        let chunks: Vec<Value> = chunks
            .map(|(name, lines)| {
                let status = ChunkStatus::after(lines);
                let range = self.range(*name);
                json!({
                    "chunk": name,
                    "start": range.map(|range| range.start),
                    "end": range.map(|range| range.end),
                    "state": status.state,
                    "attempts": status.attempts,
                    "out_of_memory": status.ooms,
                    "queue": status.queue,
                    "memory": status.used,
                    "history": lines,
                })
            })
            .collect();
        json!({
            "job": self.job,
            "frames": self.frames,
            "render_chunks": self.render_chunks,
            "analyze_chunks": self.analyze_chunks,
            "needed_tags": self.needed_tags,
            "chunks": chunks,
            "set_aside": self.set_aside,
        })
    }
}

impl<'a> ChunkStatus<'a> {
    /// Derives the status from all lines of one chunk, in order.
    pub(super) fn after(lines: &[&'a JournalLine]) -> Self {
        let mut status = Self::default();
        for line in lines {
            status.update(&line.entry);
        }
        status
    }

    fn update(&mut self, entry: &'a JournalEntry) {
        self.state = match entry {
            JournalEntry::RunBegins { .. } | JournalEntry::SetAside { .. } => return,
            JournalEntry::Placed { attempt, queue, .. } => {
                self.queue = Some(*queue);
                self.attempts = self.attempts.max(attempt.number + 1);
                format!("queued in queue {queue}")
            }
            JournalEntry::Reassigned { .. } => "waits for a new placement".to_owned(),
            JournalEntry::Unschedulable { why, .. } => format!("waits for a worker with more memory: {why}"),
            JournalEntry::Started { worker, attempt, .. } => {
                self.attempts = self.attempts.max(attempt.number + 1);
                format!("running on {worker}")
            }
            JournalEntry::Failed { .. } | JournalEntry::Ended { .. } => {
                self.ooms += usize::from(OomRecord::of(entry).is_some());
                "waits for its next attempt".to_owned()
            }
            JournalEntry::Done { worker, memory, .. } => {
                self.is_done = true;
                self.used = memory.as_ref();
                self.ooms += OomRecord::in_place(entry).len();
                match memory {
                    Some(used) => format!("done by {worker} ({})", used.device),
                    None => format!("done by {worker}"),
                }
            }
            JournalEntry::Quarantined { reason, .. } => format!("given up: {reason}"),
        };
    }
}
