//! Formats the workers of a farm as a table, or as one JSON object a line.

use std::fmt::Write as _;
use std::time::Duration;

use latentfarm_common::tags::Tags;
use latentfarm_common::wire::outcome::{Heartbeat, WorkerState};
use serde_json::json;

/// A worker whose last heartbeat is older than this is marked as silent.
const LATE: Duration = Duration::from_secs(6);
const HEADINGS: [&str; 14] = [
    "WORKER", "STATE", "DEVICE", "TAGS", "FREE", "OF", "OWN", "RSS", "QUEUE", "PLAN", "CHUNK", "STAGE",
    "F/S", "TEMP",
];
/// The column that is left out if no worker has a tag.
const TAGS: usize = 3;

/// One worker, as a row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) heartbeat: &'a Heartbeat,
    /// The time that has passed since that heartbeat.
    pub(super) silent: Duration,
}

/// Returns the table with its headings and a line of totals.
pub(super) fn text(rows: &[Row<'_>]) -> String {
    if rows.is_empty() {
        return "no heartbeat of a worker has arrived yet\n".to_owned();
    }
    let cells: Vec<[String; HEADINGS.len()]> = rows.iter().map(cells).collect();
    let width = |column: usize| {
        let longest = cells.iter().map(|row| row[column].chars().count()).max();
        longest.unwrap_or(0).max(HEADINGS[column].len())
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let has_tags = rows.iter().any(|row| !row.heartbeat.tags.is_empty());
    let mut text = String::new();
    let line = |text: &mut String, row: &[String]| {
        let padded: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .filter(|(column, _)| has_tags || *column != TAGS)
            .map(|(_, (cell, &width))| format!("{cell:<width$}"))
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    };
    line(&mut text, &HEADINGS.map(str::to_owned));
    for row in &cells {
        line(&mut text, row);
    }
    for row in rows {
        if let Some(problem) = &row.heartbeat.problem {
            let _written = writeln!(text, "{}: {problem}", row.heartbeat.worker);
        }
    }
    let working = rows
        .iter()
        .filter(|row| row.heartbeat.state == WorkerState::Working)
        .count();
    let rate: f32 = rows.iter().map(|row| row.heartbeat.frames_per_second).sum();
    let finished: u64 = rows.iter().map(|row| row.heartbeat.finished).sum();
    // Writing to a string cannot fail.
    let _written = writeln!(
        text,
        "{} workers, {working} working, {rate:.2} frames/s, {finished} chunks finished",
        rows.len()
    );
    text
}

fn cells(row: &Row<'_>) -> [String; HEADINGS.len()] {
    let heartbeat = row.heartbeat;
    let missing = || "-".to_owned();
    let task = heartbeat.task.as_ref();
    let state = if row.silent >= LATE {
        format!("silent {} s", row.silent.as_secs())
    } else {
        state_name(heartbeat.state).to_owned()
    };
    [
        heartbeat.worker.to_string(),
        state,
        heartbeat.device.clone(),
        tags(&heartbeat.tags),
        gib(heartbeat.device_free_mib << 20),
        gib(heartbeat.device_total_mib << 20),
        heartbeat.memory.map_or_else(missing, |memory| gib(memory.own)),
        gib(heartbeat.host_rss_mib << 20),
        task.and_then(|task| task.queue)
            .map_or_else(missing, |queue| queue.to_string()),
        task.and_then(|task| task.plan)
            .map_or_else(missing, |plan| plan.to_string()),
        task.map_or_else(missing, |task| task.chunk.to_string()),
        task.map_or_else(missing, |task| {
            format!("{} ({}/{})", task.stage, task.frames_done, task.frames_total)
        }),
        format!("{:.2}", heartbeat.frames_per_second),
        heartbeat
            .gpu
            .and_then(|gpu| gpu.temperature_c)
            .map_or_else(missing, |celsius| format!("{celsius} C")),
    ]
}

fn state_name(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Idle => "idle",
        WorkerState::Working => "working",
        WorkerState::Draining => "draining",
        WorkerState::Unfit => "unfit",
        WorkerState::SetAside => "set aside",
        WorkerState::Resting => "resting",
        WorkerState::Left => "left",
    }
}

/// Returns one JSON object for each worker, one a line.
pub(super) fn json_lines(rows: &[Row<'_>]) -> String {
    rows.iter().fold(String::new(), |mut text, row| {
        let heartbeat = row.heartbeat;
        let task = heartbeat.task.as_ref();
        let object = json!({
            "worker": heartbeat.worker,
            "state": state_name(heartbeat.state),
            "problem": heartbeat.problem,
            "silent_s": row.silent.as_secs_f32(),
            "device": heartbeat.device,
            "tags": heartbeat.tags,
            "device_free_mib": heartbeat.device_free_mib,
            "device_total_mib": heartbeat.device_total_mib,
            "own_mib": heartbeat.memory.map(|memory| memory.own >> 20),
            "host_rss_mib": heartbeat.host_rss_mib,
            "queue": task.and_then(|task| task.queue),
            "plan": task.and_then(|task| task.plan),
            "chunk": task.map(|task| task.chunk),
            "stage": task.map(|task| task.stage.to_string()),
            "frames_done": task.map(|task| task.frames_done),
            "frames_total": task.map(|task| task.frames_total),
            "frames_per_second": heartbeat.frames_per_second,
            "finished": heartbeat.finished,
            "temperature_c": heartbeat.gpu.and_then(|gpu| gpu.temperature_c),
            "utilization_percent": heartbeat.gpu.and_then(|gpu| gpu.utilization_percent),
        });
        let _written = writeln!(text, "{object}");
        text
    })
}

/// Returns the tags without spaces, for a column of the table.
fn tags(tags: &Tags) -> String {
    let tags: Vec<String> = tags.iter().map(|tag| tag.to_string()).collect();
    if tags.is_empty() {
        return "-".to_owned();
    }
    tags.join(",")
}

fn gib(bytes: u64) -> String {
    format!("{:.1}G", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::ids::{Attempt, ChunkId, WorkKind};
    use latentfarm_common::wire::engine::EngineStage;
    use latentfarm_common::wire::memory::{MemoryPlan, MemorySample};
    use latentfarm_common::wire::outcome::{GpuStatus, TaskProgress, TaskStage};

    fn heartbeat(name: &str, state: WorkerState) -> Heartbeat {
        Heartbeat {
            state,
            device_free_mib: 1536,
            device_total_mib: 24 << 10,
            host_rss_mib: 512,
            frames_per_second: 1.5,
            finished: 3,
            ..Heartbeat::starting(name.parse().unwrap(), "cuda:0 NVIDIA L4".to_owned())
        }
    }

    fn busy() -> Heartbeat {
        let chunk = ChunkId {
            job: "0123456789abcdef".parse().unwrap(),
            work: WorkKind::Render,
            index: 7,
        };
        Heartbeat {
            task: Some(TaskProgress {
                chunk,
                attempt: Attempt::default(),
                frames_done: 16,
                frames_total: 48,
                stage: TaskStage::Engine(EngineStage::Denoise { step: 3, of: 20 }),
                queue: Some("g06-p1".parse().unwrap()),
                plan: Some(MemoryPlan::Sliced),
            }),
            memory: Some(MemorySample {
                own: 5 << 30,
                ..MemorySample::default()
            }),
            gpu: Some(GpuStatus {
                temperature_c: Some(71),
                ..GpuStatus::default()
            }),
            ..heartbeat("busy", WorkerState::Working)
        }
    }

    #[test]
    fn every_column_of_a_busy_worker_is_filled_and_lines_stay_aligned() {
        let (busy, idle) = (busy(), heartbeat("an-idle-one", WorkerState::Idle));
        let rows = [&busy, &idle].map(|heartbeat| Row {
            heartbeat,
            silent: Duration::ZERO,
        });
        let text = text(&rows);
        let lines: Vec<&str> = text.lines().collect();
        for wanted in [
            "working",
            "1.5G",
            "24.0G",
            "5.0G",
            "g06-p1",
            "sliced",
            "step 3 of 20 (16/48)",
            "1.50",
            "71 C",
        ] {
            assert!(lines[1].contains(wanted), "{wanted}: {text}");
        }
        let column = |line: &str, word: &str| line.find(word).unwrap();
        assert_eq!(column(lines[0], "DEVICE"), column(lines[1], "cuda:0"));
        assert_eq!(column(lines[0], "DEVICE"), column(lines[2], "cuda:0"));
        assert_eq!(lines[3], "2 workers, 1 working, 3.00 frames/s, 6 chunks finished");
        assert!(!lines[0].contains("TAGS"), "no worker has one");
    }

    #[test]
    fn tags_have_a_column_if_a_worker_has_some() {
        let tagged = Heartbeat {
            tags: Tags::new(["eu", "nvenc"].map(|tag| tag.parse().unwrap())).unwrap(),
            ..heartbeat("w1", WorkerState::Idle)
        };
        let bare = heartbeat("w2", WorkerState::Idle);
        let rows = [&tagged, &bare].map(|heartbeat| Row {
            heartbeat,
            silent: Duration::ZERO,
        });
        let text = text(&rows);
        let lines: Vec<&str> = text.lines().collect();
        let column = lines[0].find("TAGS").unwrap();
        assert!(lines[1][column..].starts_with("eu,nvenc  1.5G"), "{text}");
        assert!(lines[2][column..].starts_with("-         1.5G"), "{text}");
        let first = json_lines(&rows);
        let json: serde_json::Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
        assert_eq!(json["tags"], json!(["eu", "nvenc"]));
    }

    #[test]
    fn what_is_the_matter_with_a_worker_stands_below_the_table() {
        let heartbeat = Heartbeat {
            problem: Some("the driver is too old: it has CUDA 12.4, and 13.0 is needed".to_owned()),
            ..heartbeat("w1", WorkerState::SetAside)
        };
        let (heartbeat, silent) = (&heartbeat, Duration::ZERO);
        let text = text(&[Row { heartbeat, silent }]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("set aside"), "{text}");
        assert_eq!(
            lines[2],
            "w1: the driver is too old: it has CUDA 12.4, and 13.0 is needed"
        );
        let json: serde_json::Value =
            serde_json::from_str(json_lines(&[Row { heartbeat, silent }]).trim()).unwrap();
        assert_eq!(
            (json["state"].as_str(), json["problem"].is_string()),
            (Some("set aside"), true)
        );
    }

    #[test]
    fn a_worker_without_recent_heartbeats_is_marked() {
        let heartbeat = heartbeat("w1", WorkerState::Working);
        let silent = Duration::from_secs(9);
        let heartbeat = &heartbeat;
        let late = text(&[Row { heartbeat, silent }]);
        assert!(late.contains("silent 9 s"), "{late}");
        assert!(text(&[]).contains("no heartbeat of a worker"));
    }

    #[test]
    fn json_has_an_object_a_worker() {
        let busy = busy();
        let row = Row {
            heartbeat: &busy,
            silent: Duration::from_millis(500),
        };
        let lines = json_lines(&[row]);
        let object: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
        assert_eq!(object["worker"], "busy");
        assert_eq!(object["plan"], "sliced");
        assert_eq!(object["own_mib"], 5120);
        assert_eq!(object["temperature_c"], 71);
    }
}
