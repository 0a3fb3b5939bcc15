//! A journal, told: one line a chunk, or one chunk in sentences.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use latentfarm_common::ids::{ChunkName, JobId, Work};
use latentfarm_common::queues::Queue;
use latentfarm_common::wire::memory::{MemoryPlan, MemoryUse};
use serde_json::{Value, json};

use crate::cli::report::memory::oom_text;
use crate::dispatch::{OomNote, deviation};
use crate::job::retry::Cause;
use crate::journal::{Entry, Line};
use crate::placement::gib;

/// The lines of a journal by chunk.
pub(super) struct Story<'a> {
    job: Option<JobId>,
    frames: u64,
    chunk_frames: u32,
    render_chunks: usize,
    analyze_chunks: usize,
    start_ms: u64,
    chunks: BTreeMap<ChunkName, Vec<&'a Line>>,
}

/// A chunk as its last lines leave it.
#[derive(Default)]
struct Standing<'a> {
    state: String,
    attempts: u32,
    ooms: usize,
    queue: Option<Queue>,
    used: Option<&'a MemoryUse>,
}

impl<'a> Story<'a> {
    pub(super) fn of(lines: &'a [Line]) -> Self {
        let mut story = Self {
            job: None,
            frames: 0,
            chunk_frames: 0,
            render_chunks: 0,
            analyze_chunks: 0,
            start_ms: lines.first().map_or(0, |line| line.at_ms),
            chunks: BTreeMap::new(),
        };
        for line in lines {
            if let Entry::RunBegins {
                job,
                frames,
                chunk_frames,
                render_chunks,
                analyze_chunks,
                ..
            } = &line.entry
            {
                story.job = Some(*job);
                (story.frames, story.chunk_frames) = (*frames, *chunk_frames);
                (story.render_chunks, story.analyze_chunks) = (*render_chunks, *analyze_chunks);
            }
            if let Some(chunk) = line.entry.chunk() {
                story.chunks.entry(chunk).or_default().push(line);
            }
        }
        story
    }

    pub(super) fn has(&self, chunk: ChunkName) -> bool {
        self.chunks.contains_key(&chunk)
    }

    /// Output frames of a render chunk, if the journal has them.
    fn range(&self, chunk: ChunkName) -> Option<(u64, u64)> {
        if chunk.work != Work::Render {
            return None;
        }
        let start = u64::from(chunk.index) * u64::from(self.chunk_frames);
        let end = (start + u64::from(self.chunk_frames)).min(self.frames);
        (start < end).then_some((start, end))
    }

    pub(super) fn table(&self) -> String {
        let is_done = |lines: &[&Line]| lines.iter().any(|line| matches!(line.entry, Entry::Done { .. }));
        let of = |work| self.chunks.iter().filter(move |(name, _)| name.work == work);
        let done = |work| of(work).filter(|(_, lines)| is_done(lines)).count();
        let job = self.job.map_or_else(String::new, |job| job.to_string());
        let mut text = format!(
            "job {job}: {} of {} chunks rendered, {} of {} analysed",
            done(Work::Render),
            self.render_chunks,
            done(Work::Analyze),
            self.analyze_chunks
        );
        let _ = write!(
            text,
            "\n{:<8} {:>13} {:>8} {:>5} {:>7} {:>14} {:>9}  state",
            "chunk", "frames", "attempts", "ooms", "queue", "plan", "peak"
        );
        for (name, lines) in of(Work::Render) {
            let standing = standing(lines);
            let frames = self
                .range(*name)
                .map_or_else(String::new, |(start, end)| format!("{start}..{end}"));
            let (plan, peak) = standing.used.map_or(("-", "-".to_owned()), |used| {
                (used.plan.into(), gib(used.peak_mib))
            });
            let queue = standing
                .queue
                .map_or_else(|| "-".to_owned(), |queue| queue.class.to_string());
            let _ = write!(
                text,
                "\n{name:<8} {frames:>13} {:>8} {:>5} {queue:>7} {plan:>14} {peak:>9}  {}",
                standing.attempts, standing.ooms, standing.state
            );
        }
        for (name, lines) in of(Work::Analyze) {
            let standing = standing(lines);
            if standing.attempts > 1 || !is_done(lines) {
                let _ = write!(
                    text,
                    "\n{name:<8} {:>13} {:>8}  {}",
                    "analysis", standing.attempts, standing.state
                );
            }
        }
        text
    }

    pub(super) fn of_chunk(&self, chunk: ChunkName) -> String {
        let lines = self.chunks.get(&chunk).map_or(&[][..], Vec::as_slice);
        let mut text = match self.range(chunk) {
            Some((start, end)) => format!("{chunk} (frames {start}..{end}): {}", standing(lines).state),
            None => format!("{chunk}: {}", standing(lines).state),
        };
        for line in lines {
            let seconds = line.at_ms.saturating_sub(self.start_ms) as f64 / 1000.0;
            let _ = match line.at_ms {
                0 => write!(text, "\n             {}", sentence(&line.entry)),
                _ => write!(text, "\n  {seconds:>8.1} s {}", sentence(&line.entry)),
            };
        }
        text
    }

    pub(super) fn to_json(&self, only: Option<ChunkName>) -> Value {
        let chunks = self
            .chunks
            .iter()
            .filter(|(name, _)| only.is_none_or(|only| only == **name));
        let chunks: Vec<Value> = chunks
            .map(|(name, lines)| {
                let standing = standing(lines);
                let range = self.range(*name);
                json!({
                    "chunk": name,
                    "start": range.map(|range| range.0),
                    "end": range.map(|range| range.1),
                    "state": standing.state,
                    "attempts": standing.attempts,
                    "out_of_memory": standing.ooms,
                    "queue": standing.queue,
                    "memory": standing.used,
                    "history": lines,
                })
            })
            .collect();
        json!({
            "job": self.job,
            "frames": self.frames,
            "render_chunks": self.render_chunks,
            "analyze_chunks": self.analyze_chunks,
            "chunks": chunks,
        })
    }
}

fn standing<'a>(lines: &[&'a Line]) -> Standing<'a> {
    let mut standing = Standing::default();
    for line in lines {
        let entry = &line.entry;
        match entry {
            Entry::RunBegins { .. } => {}
            Entry::Placed { attempt, queue, .. } => {
                standing.queue = Some(*queue);
                standing.attempts = standing.attempts.max(attempt.number + 1);
                standing.state = format!("queued in queue {queue}");
            }
            Entry::TakenBack { .. } => "to be placed anew".clone_into(&mut standing.state),
            Entry::Waits { why, .. } => standing.state = format!("waits for a bigger node: {why}"),
            Entry::Started { worker, attempt, .. } => {
                standing.attempts = standing.attempts.max(attempt.number + 1);
                standing.state = format!("running on {worker}");
            }
            Entry::Failed { .. } => {
                standing.ooms += usize::from(OomNote::of(entry).is_some());
                "to be tried again".clone_into(&mut standing.state);
            }
            Entry::Ended { .. } => "to be tried again".clone_into(&mut standing.state),
            Entry::Done { worker, memory, .. } => {
                standing.used = memory.as_ref();
                let device = memory
                    .as_ref()
                    .map_or_else(String::new, |used| format!(" ({})", used.device));
                standing.state = format!("done by {worker}{device}");
            }
            Entry::GivenUp { reason, .. } => standing.state = format!("given up: {reason}"),
        }
    }
    standing
}

fn sentence(entry: &Entry) -> String {
    match entry {
        Entry::RunBegins { epoch, .. } => format!("coordinator {epoch} took the job on"),
        Entry::Placed {
            attempt,
            queue,
            kind,
            floor,
            need_mib,
            needs,
            why,
            ..
        } => {
            let mut text = format!(
                "attempt {}: queue {queue}, because the engine needs {} on {kind} under the leanest plan and {} under \
                 {floor}, the fastest that is allowed",
                attempt.number + 1,
                gib(needs.leanest()),
                gib(needs.of(*floor))
            );
            // On a host the media process lives in the same memory, and an attempt may have shown a bound.
            if *need_mib > needs.leanest() {
                let _ = write!(text, "; the queue has to hold {}", gib(*need_mib));
            }
            let _ = write!(text, "; {why}");
            if *floor > MemoryPlan::default() {
                text.push_str("; faster plans ran out of memory");
            }
            text
        }
        Entry::TakenBack { queue, why, .. } => {
            format!("taken out of queue {queue} before anyone began it: {why}")
        }
        Entry::Waits { why, .. } => format!("waits for a bigger node: {why}"),
        Entry::Started { attempt, worker, .. } => {
            format!("attempt {}: {worker} began it", attempt.number + 1)
        }
        Entry::Failed {
            attempt,
            worker,
            failure,
            then,
            ..
        } => {
            if let Some(oom) = OomNote::of(entry) {
                format!("attempt {}: {}", attempt.number + 1, oom_text(&oom))
            } else {
                let then = then.as_ref().map_or_else(String::new, |then| format!("; {then}"));
                format!(
                    "attempt {}: failed on {worker}: {}{then}",
                    attempt.number + 1,
                    Cause::of(failure).reason
                )
            }
        }
        Entry::Ended {
            attempt,
            reason,
            then,
            ..
        } => {
            let then = then.as_ref().map_or_else(String::new, |then| format!("; {then}"));
            format!("attempt {}: ended: {reason}{then}", attempt.number + 1)
        }
        Entry::Done {
            attempt,
            worker,
            frames,
            memory,
            ..
        } => {
            let mut text = format!(
                "attempt {}: {worker} finished its {frames} frames",
                attempt.number + 1
            );
            if let Some(used) = memory {
                let (device, plan) = (&used.device, used.plan);
                let (took, predicted) = (gib(used.peak_mib), gib(used.predicted_mib));
                let _ = write!(
                    text,
                    " on {device} under plan {plan}: it took {took}, {predicted} were predicted"
                );
                if let Some(share) = deviation(used.peak_mib, used.predicted_mib) {
                    let _ = write!(text, " ({:+.0} %)", 100.0 * share);
                }
            }
            text
        }
        Entry::GivenUp { reason, .. } => format!("given up: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::CpuFallback;
    use latentfarm_common::ids::Attempt;
    use latentfarm_common::wire::memory::{DeviceKind, MemoryRequirements, MemoryStage, OutOfMemory};
    use latentfarm_common::wire::outcome::Failure;

    fn journal() -> Vec<Line> {
        let chunk = || "r00001".parse().unwrap();
        let at = |number| Attempt { epoch: 1, number };
        let placed = |number, floor, need_mib| Entry::Placed {
            chunk: chunk(),
            attempt: at(number),
            queue: "g04-p1".parse().unwrap(),
            kind: DeviceKind::Cuda,
            floor,
            need_mib,
            needs: MemoryRequirements {
                mib: [9000, 7000, 5000, 5000, 3500, 3277],
            },
            why: "the smallest GPU queue that holds its leanest plan".to_owned(),
        };
        let entries = [
            Entry::RunBegins {
                job: "0123456789abcdef".parse().unwrap(),
                epoch: 1,
                analyze_chunks: 1,
                render_chunks: 2,
                frames: 40,
                chunk_frames: 32,
                cpu_fallback: Some(CpuFallback::Last),
                unplaceable_wait_seconds: 600,
            },
            placed(0, MemoryPlan::default(), 3277),
            Entry::Started {
                chunk: chunk(),
                attempt: at(0),
                worker: "w4".parse().unwrap(),
            },
            Entry::Failed {
                chunk: chunk(),
                attempt: at(0),
                worker: "w4".parse().unwrap(),
                failure: Failure::OutOfMemory(OutOfMemory {
                    kind: DeviceKind::Cuda,
                    device: "cuda:0".to_owned(),
                    stage: Some(MemoryStage::Denoise),
                    plan: MemoryPlan::default(),
                    needed_at_least_mib: Some(9500),
                    free_before_mib: 9100,
                    suspected: false,
                }),
                queue: Some("g04-p1".parse().unwrap()),
                then: Some("its plan floor on cuda rises to sequential".to_owned()),
            },
            placed(1, MemoryPlan::SequentialGuidance, 3584),
        ];
        let lines = (0..).zip(entries).map(|(second, entry)| Line {
            at_ms: 5000 + 1000 * second,
            entry,
        });
        lines.collect()
    }

    #[test]
    fn a_chunk_is_told_with_its_figures_and_where_it_is_now() {
        let lines = journal();
        let text = Story::of(&lines).of_chunk("r00001".parse().unwrap());
        let expected = "\
r00001 (frames 32..40): queued in queue g04-p1
       1.0 s attempt 1: queue g04-p1, because the engine needs 3.2 GiB on cuda under the leanest plan and 8.8 GiB under batched, the fastest that is allowed; the smallest GPU queue that holds its leanest plan
       2.0 s attempt 1: w4 began it
       3.0 s attempt 1: out of memory: r00001 on w4 (cuda:0) during denoise under plan batched: 9.3 GiB at least were needed, 8.9 GiB were free; its plan floor on cuda rises to sequential
       4.0 s attempt 2: queue g04-p1, because the engine needs 3.2 GiB on cuda under the leanest plan and 6.8 GiB under sequential, the fastest that is allowed; the queue has to hold 3.5 GiB; the smallest GPU queue that holds its leanest plan; faster plans ran out of memory";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_table_has_a_line_for_each_chunk_that_something_happened_to() {
        let lines = journal();
        let story = Story::of(&lines);
        let table = story.table();
        assert!(
            table.starts_with("job 0123456789abcdef: 0 of 2 chunks rendered"),
            "{table}"
        );
        let row: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row[..5], ["r00001", "32..40", "2", "1", "g04"]);
        let json = story.to_json("r00001".parse().ok());
        assert_eq!(json["chunks"][0]["out_of_memory"], 1);
        assert_eq!(json["chunks"][0]["history"].as_array().unwrap().len(), 4);
    }
}
