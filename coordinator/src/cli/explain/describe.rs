//! The history of a job as text for `explain`: a table with one line a chunk, or one chunk with a sentence
//! for each line of its journal.

use std::fmt::Write as _;

use latentfarm_common::ids::{Attempt, ChunkName, WorkKind};
use latentfarm_common::wire::memory::MemoryPlan;

use super::history::{ChunkStatus, JobHistory};
use crate::cli::report::memory::oom_text;
use crate::dispatch::{OomRecord, deviation};
use crate::job::retry::Cause;
use crate::journal::JournalEntry;
use crate::placement::gib;

/// Returns a table of all render chunks, and of the analysis chunks that are not done or needed several
/// attempts.
pub(super) fn table(history: &JobHistory<'_>) -> String {
    let of = |work| {
        let chunks = history.chunks.iter().filter(move |(name, _)| name.work == work);
        chunks.map(|(name, lines)| (*name, ChunkStatus::after(lines)))
    };
    let done = |work| of(work).filter(|(_, status)| status.is_done).count();
    let job = history.job.map_or_else(String::new, |job| job.to_string());
    let mut text = format!(
        "job {job}: {} of {} chunks rendered, {} of {} analysed",
        done(WorkKind::Render),
        history.render_chunks,
        done(WorkKind::Analyze),
        history.analyze_chunks
    );
    if !history.needed_tags.is_empty() {
        let _ = write!(text, "\nonly on workers with the tags: {}", history.needed_tags);
    }
    let _ = write!(
        text,
        "\n{:<8} {:>13} {:>8} {:>5} {:>7} {:>14} {:>9}  state",
        "chunk", "frames", "attempts", "ooms", "queue", "plan", "peak"
    );
    for (name, status) in of(WorkKind::Render) {
        let frames = history
            .range(name)
            .map_or_else(String::new, |range| range.to_string());
        let (plan, peak) = status.used.map_or(("-", "-".to_owned()), |used| {
            (used.plan.into(), gib(used.peak_mib))
        });
        let queue = status
            .queue
            .map_or_else(|| "-".to_owned(), |queue| queue.lane.class.to_string());
        let _ = write!(
            text,
            "\n{name:<8} {frames:>13} {:>8} {:>5} {queue:>7} {plan:>14} {peak:>9}  {}",
            status.attempts, status.ooms, status.state
        );
    }
    for (name, status) in of(WorkKind::Analyze).filter(|(_, status)| status.attempts > 1 || !status.is_done) {
        let _ = write!(
            text,
            "\n{name:<8} {:>13} {:>8}  {}",
            "analysis", status.attempts, status.state
        );
    }
    for line in &history.set_aside {
        let _ = write!(
            text,
            "\n{:>8.1} s {}",
            history.seconds(line),
            sentence(&line.entry)
        );
    }
    text
}

/// Returns everything that happened to one chunk, a sentence a line, each with its time since the job's first
/// line.
pub(super) fn chunk(history: &JobHistory<'_>, name: ChunkName) -> String {
    let lines = history.chunks.get(&name).map_or(&[][..], Vec::as_slice);
    let state = ChunkStatus::after(lines).state;
    let mut text = match history.range(name) {
        Some(range) => format!("{name} (frames {range}): {state}"),
        None => format!("{name}: {state}"),
    };
    for line in lines {
        let seconds = history.seconds(line);
        let _ = match line.at_ms {
            // Done records of a farm have no time.
            0 => write!(text, "\n             {}", sentence(&line.entry)),
            _ => write!(text, "\n  {seconds:>8.1} s {}", sentence(&line.entry)),
        };
    }
    text
}

fn sentence(entry: &JournalEntry) -> String {
    match entry {
        JournalEntry::RunBegins { epoch, .. } => format!("coordinator {epoch} took over the job"),
        JournalEntry::Placed {
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
                "queue {queue}, because the engine needs {} on {kind} under the leanest plan and {} under {floor}, the \
                 fastest that is allowed",
                gib(needs.leanest()),
                gib(needs.of(*floor))
            );
            // On a host the media process uses the same memory, and an attempt may have shown that more is
            // needed.
            if *need_mib > needs.leanest() {
                let _ = write!(text, "; the queue has to hold {}", gib(*need_mib));
            }
            let _ = write!(text, "; {why}");
            if *floor > MemoryPlan::default() {
                text.push_str("; faster plans ran out of memory");
            }
            numbered(*attempt, &text)
        }
        JournalEntry::Reassigned { queue, why, .. } => {
            format!("removed from queue {queue} before a worker started it: {why}")
        }
        JournalEntry::Unschedulable { why, .. } => format!("waits for a worker with more memory: {why}"),
        JournalEntry::Started { attempt, worker, .. } => numbered(*attempt, &format!("{worker} started it")),
        JournalEntry::Failed {
            attempt,
            worker,
            failure,
            consequence,
            ..
        } => match OomRecord::of(entry) {
            Some(oom) => numbered(*attempt, &oom_text(&oom)),
            None => ended(
                *attempt,
                &format!("failed on {worker}: {}", Cause::of(failure).reason),
                consequence.as_deref(),
            ),
        },
        JournalEntry::Ended {
            attempt,
            reason,
            consequence,
            ..
        } => ended(*attempt, &format!("ended: {reason}"), consequence.as_deref()),
        JournalEntry::Done {
            attempt,
            worker,
            frames,
            memory,
            ..
        } => {
            let mut text = format!("{worker} finished its {frames} frames");
            if let Some(used) = memory {
                let (device, plan) = (&used.device, used.plan);
                let (took, predicted) = (gib(used.peak_mib), gib(used.predicted_mib));
                let _ = write!(
                    text,
                    " on {device} under plan {plan}: it used {took}, {predicted} were predicted"
                );
                if let Some(share) = deviation(used.peak_mib, used.predicted_mib) {
                    let _ = write!(text, " ({:+.0} %)", 100.0 * share);
                }
                for oom in OomRecord::in_place(entry) {
                    let _ = write!(text, "; before that, {}", oom_text(&oom));
                }
            }
            numbered(*attempt, &text)
        }
        JournalEntry::SetAside {
            worker,
            reason,
            pause_seconds,
        } => match pause_seconds {
            Some(seconds) => format!("{worker} was set aside for {seconds} s: {reason}"),
            None => format!("{worker} was unfit: {reason}"),
        },
        JournalEntry::Quarantined { reason, .. } => format!("given up: {reason}"),
    }
}

/// Attempts are counted from 1 for people.
fn numbered(attempt: Attempt, text: &str) -> String {
    format!("attempt {}: {text}", attempt.number + 1)
}

/// An attempt that ended without a result, and what was decided for the next one.
fn ended(attempt: Attempt, text: &str, consequence: Option<&str>) -> String {
    let text = numbered(attempt, text);
    consequence.map_or(text.clone(), |consequence| format!("{text}; {consequence}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::JournalLine;
    use crate::placement::CpuFallback;
    use latentfarm_common::ids::Attempt;
    use latentfarm_common::tags::Tags;
    use latentfarm_common::wire::memory::{DeviceKind, MemoryRequirements, MemoryStage, OutOfMemory};
    use latentfarm_common::wire::outcome::Failure;

    fn journal() -> Vec<JournalLine> {
        let chunk = || "r00001".parse().unwrap();
        let at = |number| Attempt { epoch: 1, number };
        let placed = |number, floor, need_mib| JournalEntry::Placed {
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
            JournalEntry::RunBegins {
                job: "0123456789abcdef".parse().unwrap(),
                epoch: 1,
                analyze_chunks: 1,
                render_chunks: 2,
                frames: 40,
                chunk_frames: 32,
                cpu_fallback: Some(CpuFallback::Last),
                unplaceable_wait_seconds: 600,
                needed_tags: Tags::from("eu".parse().ok()),
            },
            placed(0, MemoryPlan::default(), 3277),
            JournalEntry::Started {
                chunk: chunk(),
                attempt: at(0),
                worker: "w4".parse().unwrap(),
            },
            JournalEntry::Failed {
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
                consequence: Some("its plan floor on cuda rises to sequential".to_owned()),
            },
            placed(1, MemoryPlan::SequentialGuidance, 3584),
        ];
        let lines = (0..).zip(entries).map(|(second, entry)| JournalLine {
            at_ms: 5000 + 1000 * second,
            entry,
        });
        lines.collect()
    }

    #[test]
    fn a_chunk_is_described_with_its_figures_and_its_state() {
        let lines = journal();
        let text = chunk(&JobHistory::from_lines(&lines), "r00001".parse().unwrap());
        let expected = "\
r00001 (frames 32..40): queued in queue g04-p1
       1.0 s attempt 1: queue g04-p1, because the engine needs 3.2 GiB on cuda under the leanest plan and 8.8 GiB under batched, the fastest that is allowed; the smallest GPU queue that holds its leanest plan
       2.0 s attempt 1: w4 started it
       3.0 s attempt 1: out of memory: r00001 on w4 (cuda:0) during denoise under plan batched: 9.3 GiB at least were needed, 8.9 GiB were free; its plan floor on cuda rises to sequential
       4.0 s attempt 2: queue g04-p1, because the engine needs 3.2 GiB on cuda under the leanest plan and 6.8 GiB under sequential, the fastest that is allowed; the queue has to hold 3.5 GiB; the smallest GPU queue that holds its leanest plan; faster plans ran out of memory";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_table_has_a_line_for_each_chunk_that_something_happened_to() {
        let lines = journal();
        let history = JobHistory::from_lines(&lines);
        let table = table(&history);
        assert!(
            table.starts_with("job 0123456789abcdef: 0 of 2 chunks rendered"),
            "{table}"
        );
        assert!(table.contains("\nonly on workers with the tags: eu\n"), "{table}");
        let row: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row[..5], ["r00001", "32..40", "2", "1", "g04"]);
        let json = history.to_json("r00001".parse().ok());
        assert_eq!(json["chunks"][0]["out_of_memory"], 1);
        assert_eq!(json["needed_tags"], serde_json::json!(["eu"]));
        assert_eq!(json["chunks"][0]["history"].as_array().unwrap().len(), 4);
    }
}
