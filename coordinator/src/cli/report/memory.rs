//! The memory part of a job's report: on which devices and under which plans chunks ran, the peak of each
//! stage, and every attempt that ran out of memory.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::dispatch::{JobReport, MemoryUsage, OomRecord};
use crate::placement::gib;

/// Length of the longest bar in characters.
const BAR_CELLS: u64 = 30;

/// Returns the memory part of the report as a JSON object.
pub(super) fn to_json(job: &JobReport) -> Value {
    let usage = &job.memory;
    let plans: Vec<Value> = usage
        .plans
        .iter()
        .map(|((kind, plan), taken)| {
            json!({
                "kind": kind,
                "plan": plan,
                "chunks": taken.chunks,
                "predicted_mib": taken.predicted_mib,
                "measured_mib": [taken.least_mib, taken.most_mib],
            })
        })
        .collect();
    let places: Vec<Value> = usage
        .devices
        .iter()
        .map(|((worker, device), place)| {
            json!({
                "worker": worker,
                "device": device,
                "chunks": place.chunks,
                "frames": place.frames,
                "peak_mib": place.peak_mib,
                "least_free_mib": place.least_free_mib,
            })
        })
        .collect();
    json!({
        "out_of_memory": job.ooms.iter().map(oom_json).collect::<Vec<_>>(),
        "peaks": usage.stages,
        "plans": plans,
        "places": places,
        "warnings": usage.warnings,
    })
}

fn oom_json(note: &OomRecord) -> Value {
    let oom = &note.oom;
    json!({
        "chunk": note.chunk,
        "attempt": note.attempt.number,
        "worker": note.worker,
        "device": oom.device,
        "stage": oom.stage,
        "plan": oom.plan,
        "needed_at_least_mib": oom.needed_at_least_mib,
        "free_before_mib": oom.free_before_mib,
        "suspected": oom.suspected,
        "then": note.consequence,
    })
}

/// Returns the memory part of the report as lines that each begin with a line break and two blanks. The text
/// is empty if no model ran.
pub(super) fn to_text(job: &JobReport) -> String {
    let mut text = String::new();
    places(&job.memory, &mut text);
    plans(&job.memory, &mut text);
    stages(&job.memory, &mut text);
    for oom in &job.ooms {
        let _ = write!(text, "\n  {}", oom_text(oom));
    }
    for warning in &job.memory.warnings {
        let _ = write!(text, "\n  warning: {warning}");
    }
    text
}

/// Returns one line about an attempt that ran out of memory:
/// `out of memory: r00003 on w1 (cuda:0 …) during denoise under plan batched: …`
pub(crate) fn oom_text(note: &OomRecord) -> String {
    let OomRecord {
        chunk,
        worker,
        oom,
        consequence,
        ..
    } = note;
    let suspected = if oom.suspected { " (suspected)" } else { "" };
    let needed = oom
        .needed_at_least_mib
        .map_or_else(String::new, |mib| format!("{} at least were needed, ", gib(mib)));
    let separator = if consequence.is_empty() { "" } else { "; " };
    format!(
        "out of memory{suspected}: {chunk} on {worker} ({}){} under plan {}: {needed}{} were free{separator}{consequence}",
        oom.device,
        oom.during(),
        oom.plan,
        gib(oom.free_before_mib)
    )
}

fn places(usage: &MemoryUsage, text: &mut String) {
    let parts: Vec<String> = usage
        .devices
        .iter()
        .map(|((worker, device), place)| {
            let (chunks, peak) = (place.chunks, gib(place.peak_mib));
            format!("{chunks} chunks on {worker} ({device}, at most {peak})")
        })
        .collect();
    if !parts.is_empty() {
        let _ = write!(text, "\n  rendered: {}", parts.join(", "));
    }
}

fn plans(usage: &MemoryUsage, text: &mut String) {
    for ((kind, plan), taken) in &usage.plans {
        let measured = if taken.least_mib == taken.most_mib {
            gib(taken.most_mib)
        } else {
            format!("{} to {}", gib(taken.least_mib), gib(taken.most_mib))
        };
        let predicted = gib(taken.predicted_mib);
        let _ = write!(
            text,
            "\n  memory plan {plan} on {kind}: {} chunks, predicted {predicted}, took {measured}",
            taken.chunks
        );
    }
}

/// Appends a bar for each stage, as long as the tensors and buffers that were in use at its peak.
fn stages(usage: &MemoryUsage, text: &mut String) {
    for (kind, peaks) in &usage.stages {
        let Some(most) = peaks
            .iter()
            .map(|peak| peak.live_mib)
            .max()
            .filter(|most| *most > 0)
        else {
            continue;
        };
        let _ = write!(text, "\n  highest use by stage on {kind}:");
        for peak in peaks {
            let cells = usize::try_from((peak.live_mib * BAR_CELLS).div_ceil(most)).unwrap_or(0);
            let (label, bar) = (peak.stage, "#".repeat(cells));
            let _ = write!(
                text,
                "\n    {label:<10} {bar:<30} {} in use, {} held by the process",
                gib(peak.live_mib),
                gib(peak.own_mib)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::ids::Attempt;
    use latentfarm_common::wire::memory::OutOfMemory;
    use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, MemoryUse, StagePeak};

    #[test]
    fn the_report_lists_devices_plans_peaks_and_every_shortage() {
        let mut job = JobReport::default();
        let used = MemoryUse {
            kind: DeviceKind::Cuda,
            device: "cuda:0 NVIDIA L4".to_owned(),
            plan: MemoryPlan::Sliced,
            predicted_mib: 4000,
            peak_mib: 4096,
            least_free_mib: 900,
            shortages: Vec::new(),
            stages: vec![
                StagePeak {
                    stage: MemoryStage::Load,
                    live_mib: 1024,
                    own_mib: 1100,
                },
                StagePeak {
                    stage: MemoryStage::Denoise,
                    live_mib: 3072,
                    own_mib: 4096,
                },
            ],
        };
        job.memory.add(&"w1".parse().unwrap(), 16, &used);
        job.memory.compute_warnings();
        job.ooms.push(OomRecord {
            chunk: "r00003".parse().unwrap(),
            attempt: Attempt::default(),
            worker: "w1".parse().unwrap(),
            oom: OutOfMemory {
                kind: DeviceKind::Cuda,
                device: "cuda:0 NVIDIA L4".to_owned(),
                stage: Some(MemoryStage::Denoise),
                plan: MemoryPlan::BatchedGuidance,
                needed_at_least_mib: Some(5325),
                free_before_mib: 3994,
                suspected: false,
            },
            consequence: "its plan floor on cuda rises to sliced".to_owned(),
        });
        assert_eq!(
            to_text(&job),
            "\n  rendered: 1 chunks on w1 (cuda:0 NVIDIA L4, at most 4.0 GiB)\
             \n  memory plan sliced on cuda: 1 chunks, predicted 3.9 GiB, took 4.0 GiB\
             \n  highest use by stage on cuda:\
             \n    load       ##########                     1.0 GiB in use, 1.1 GiB held by the process\
             \n    denoise    ############################## 3.0 GiB in use, 4.0 GiB held by the process\
             \n  out of memory: r00003 on w1 (cuda:0 NVIDIA L4) during denoise under plan batched: 5.2 GiB at least \
             were needed, 3.9 GiB were free; its plan floor on cuda rises to sliced"
        );
        let json = to_json(&job);
        assert_eq!(json["out_of_memory"][0]["needed_at_least_mib"], 5325);
        assert_eq!(json["plans"][0]["measured_mib"][1], 4096);
        assert_eq!(json["peaks"]["cuda"][1]["live_mib"], 3072);
        assert_eq!(to_text(&JobReport::default()), "");
    }
}
