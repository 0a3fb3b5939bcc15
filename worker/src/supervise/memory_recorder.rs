//! The memory that a render task uses, stage by stage: peaks for its done record, and lines for the log. The
//! engine client feeds it with the samples that come with the engine's replies.

use std::collections::BTreeMap;

use latentfarm_common::wire::memory::{
    DeviceKind, MemoryPlan, MemorySample, MemoryStage, MemoryUse, OutOfMemory, StagePeak,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Amounts of at least this many bytes are shown in GiB, smaller ones in MiB.
const SHOWN_IN_GIB: u64 = GIB / 10;
/// A stage is logged for operators again if its use has changed by more than this, or by more than one part
/// in [`NOTABLE_SHARE`] of the device.
const NOTABLE_BYTES: u64 = 256 * MIB;
const NOTABLE_SHARE: u64 = 20;

/// Fragmentation of the GPU's memory pool is logged from so many bytes on.
const NOTABLE_FRAGMENTATION: u64 = 64 * MIB;

/// A line for the log about the memory after a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StageLine {
    pub(super) text: String,
    /// True for a stage's first sample in a task and for one that has changed much. The others, several for
    /// each window, are logged for debugging alone.
    pub(super) is_notable: bool,
}

/// Collects the memory samples of one task.
#[derive(Debug)]
pub(super) struct MemoryRecorder {
    total: MemoryUse,
    peaks: BTreeMap<MemoryStage, StagePeak>,
    /// The least free memory of the device, in bytes.
    least_free: Option<u64>,
    /// The most memory that the engine held, in bytes.
    peak: u64,
    /// The stage under way and its latest sample.
    pending: Option<(MemoryStage, MemorySample)>,
    /// The samples of the last notable line of each stage.
    logged: BTreeMap<MemoryStage, MemorySample>,
}

impl MemoryRecorder {
    pub(super) fn new(kind: DeviceKind, device: String, plan: MemoryPlan, predicted_mib: u64) -> Self {
        Self {
            total: MemoryUse {
                kind,
                device,
                plan,
                predicted_mib,
                peak_mib: 0,
                least_free_mib: 0,
                stages: Vec::new(),
                shortages: Vec::new(),
            },
            peaks: BTreeMap::new(),
            least_free: None,
            peak: 0,
            pending: None,
            logged: BTreeMap::new(),
        }
    }

    /// Records that the task goes on under another plan, because it ran out of memory. What the engine used until then
    /// belongs to another plan and is forgotten; the media process's use is not.
    pub(super) fn change_plan(&mut self, shortage: OutOfMemory, plan: MemoryPlan, predicted_mib: u64) {
        self.total.shortages.push(shortage);
        self.total.plan = plan;
        self.total.predicted_mib = predicted_mib;
        self.peaks.retain(|stage, _| is_of_media(*stage));
        (self.least_free, self.peak, self.pending) = (None, 0, None);
    }

    /// Records the engine's sample of `stage`. Returns a line about the previous stage if this is a new one.
    pub(super) fn record(&mut self, stage: MemoryStage, sample: MemorySample) -> Option<StageLine> {
        let line = match self.pending {
            Some((pending, _)) if pending != stage => self.end_stage(),
            _ => None,
        };
        self.pending = Some((stage, sample));
        // The GPU context and all else that the allocator does not hold stays while tensors come and go.
        let beside = sample.own.saturating_sub(sample.reserved);
        let own = sample
            .own
            .max(beside + sample.live_peak.max(sample.reserved_peak));
        self.peak = self.peak.max(own);
        self.least_free = Some(self.least_free.map_or(sample.free, |free| free.min(sample.free)));
        self.raise_peak(stage, sample.live.max(sample.live_peak) / MIB, own / MIB);
        line
    }

    /// Ends the stage under way, as at the end of a request, and returns a line about it.
    pub(super) fn end_stage(&mut self) -> Option<StageLine> {
        let (stage, sample) = self.pending.take()?;
        let logged = self.logged.get(&stage);
        let is_notable = logged.is_none_or(|logged| has_changed_much(logged, &sample));
        if is_notable {
            self.logged.insert(stage, sample);
        }
        Some(StageLine {
            text: readable(stage, &sample, self.total.kind),
            is_notable,
        })
    }

    /// Records the host memory of the media process after `stages`, in MiB: what it holds, and its resident
    /// set.
    pub(super) fn record_media(&mut self, stages: [MemoryStage; 2], held_mib: u64, rss_mib: u64) {
        for stage in stages {
            self.raise_peak(stage, held_mib, rss_mib);
        }
    }

    /// Returns the task's memory use. `kernel_peak_mib` is the engine's peak resident set as counted by the
    /// kernel, which misses nothing between two samples; `None` if it was not counted.
    pub(super) fn finish(self, kernel_peak_mib: Option<u64>) -> MemoryUse {
        MemoryUse {
            peak_mib: kernel_peak_mib.unwrap_or(0).max(self.peak / MIB),
            least_free_mib: self.least_free.unwrap_or(0) / MIB,
            stages: self.peaks.into_values().collect(),
            ..self.total
        }
    }

    /// Raises the peaks of `stage` to the values given, if they are higher.
    fn raise_peak(&mut self, stage: MemoryStage, live_mib: u64, own_mib: u64) {
        let peak = self.peaks.entry(stage).or_insert(StagePeak {
            stage,
            live_mib: 0,
            own_mib: 0,
        });
        peak.live_mib = peak.live_mib.max(live_mib);
        peak.own_mib = peak.own_mib.max(own_mib);
    }
}

/// Whether the media process works in a stage.
fn is_of_media(stage: MemoryStage) -> bool {
    match stage {
        MemoryStage::Decode | MemoryStage::Align | MemoryStage::Paste | MemoryStage::Encode => true,
        MemoryStage::Load
        | MemoryStage::Audio
        | MemoryStage::VaeEncode
        | MemoryStage::Denoise
        | MemoryStage::VaeDecode
        | MemoryStage::Idle => false,
    }
}

fn has_changed_much(logged: &MemorySample, now: &MemorySample) -> bool {
    let bound = NOTABLE_BYTES.min(now.total / NOTABLE_SHARE);
    let moved = |before: u64, after: u64| before.abs_diff(after) > bound;
    moved(logged.live, now.live) || moved(logged.reserved, now.reserved) || moved(logged.free, now.free)
}

/// Logs a line: notable ones for the operator, the others for debugging.
pub(super) fn log(line: Option<StageLine>) {
    match line {
        Some(StageLine {
            text,
            is_notable: true,
        }) => tracing::info!("{text}"),
        Some(StageLine {
            text,
            is_notable: false,
        }) => tracing::debug!("{text}"),
        None => {}
    }
}

fn readable(stage: MemoryStage, sample: &MemorySample, kind: DeviceKind) -> String {
    let gib = |bytes: u64| format!("{:.1}", bytes as f64 / GIB as f64);
    let (free, total) = (gib(sample.free), gib(sample.total));
    let fragmented = match (kind, sample.fragmented_peak()) {
        (DeviceKind::Cuda, bytes) if bytes >= NOTABLE_FRAGMENTATION => {
            format!("; {} MiB lost to fragmentation at the peak", bytes / MIB)
        }
        _ => String::new(),
    };
    if sample.live.min(sample.reserved) >= SHOWN_IN_GIB {
        let (live, reserved) = (gib(sample.live), gib(sample.reserved));
        return format!(
            "after {stage}: {live} GiB in use, {reserved} reserved, {free} free of {total}{fragmented}"
        );
    }
    let (live, reserved) = (sample.live / MIB, sample.reserved / MIB);
    format!(
        "after {stage}: {live} MiB in use, {reserved} MiB reserved, {free} GiB free of {total}{fragmented}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(live_mib: u64, reserved_mib: u64) -> MemorySample {
        MemorySample {
            free: 19_558 * MIB,
            total: 24_576 * MIB,
            own: (reserved_mib + 400) * MIB,
            reserved: reserved_mib * MIB,
            reserved_peak: reserved_mib * MIB,
            live: live_mib * MIB,
            live_peak: live_mib * MIB,
            host_rss: 0,
        }
    }

    fn recorder() -> MemoryRecorder {
        MemoryRecorder::new(
            DeviceKind::Cuda,
            "cuda:0 NVIDIA L4".to_owned(),
            MemoryPlan::Sliced,
            5000,
        )
    }

    #[test]
    fn each_stage_ends_with_a_line_that_is_notable_once_until_use_changes() {
        let mut recorder = recorder();
        assert_eq!(recorder.record(MemoryStage::VaeEncode, sample(4200, 4800)), None);
        assert_eq!(recorder.record(MemoryStage::VaeEncode, sample(4301, 4915)), None);
        let line = recorder.record(MemoryStage::Denoise, sample(3000, 4915)).unwrap();
        assert_eq!(
            line.text,
            "after VAE encode: 4.2 GiB in use, 4.8 reserved, 19.1 free of 24.0; 614 MiB lost to fragmentation at the peak"
        );
        assert!(line.is_notable);
        let line = recorder.end_stage().unwrap();
        assert!(
            line.is_notable && line.text.starts_with("after denoise: 2.9 GiB"),
            "{line:?}"
        );
        assert_eq!(recorder.end_stage(), None);
        // The next window.
        recorder.record(MemoryStage::VaeEncode, sample(4310, 4915));
        let line = recorder.record(MemoryStage::Denoise, sample(3300, 4915)).unwrap();
        assert!(!line.is_notable, "as before: {line:?}");
        assert!(
            recorder.end_stage().unwrap().is_notable,
            "300 MiB more than the last time"
        );
    }

    #[test]
    fn what_a_gpus_pool_lost_to_fragmentation_is_in_its_line() {
        let peaks = MemorySample {
            live_peak: 4400 * MIB,
            reserved_peak: 4915 * MIB,
            ..sample(4200, 4800)
        };
        let line = |kind| {
            let mut recorder = MemoryRecorder::new(kind, "device".to_owned(), MemoryPlan::Sliced, 5000);
            recorder.record(MemoryStage::Denoise, peaks);
            recorder.end_stage().unwrap().text
        };
        let expected = "after denoise: 4.1 GiB in use, 4.7 reserved, 19.1 free of 24.0";
        let lost = "; 515 MiB lost to fragmentation at the peak";
        assert_eq!(line(DeviceKind::Cuda), format!("{expected}{lost}"));
        assert_eq!(
            line(DeviceKind::Cpu),
            expected,
            "what the CPU's allocator holds is another thing"
        );
    }

    #[test]
    fn small_amounts_are_shown_in_mib() {
        let mut recorder = recorder();
        recorder.record(MemoryStage::Audio, sample(12, 80));
        assert_eq!(
            recorder.end_stage().unwrap().text,
            "after audio: 12 MiB in use, 80 MiB reserved, 19.1 GiB free of 24.0; 68 MiB lost to fragmentation at the peak"
        );
    }

    #[test]
    fn peaks_are_kept_by_stage_and_the_total_counts_memory_outside_the_allocator() {
        let mut recorder = recorder();
        let peak = MemorySample {
            live_peak: 6000 * MIB,
            ..sample(100, 200)
        };
        recorder.record(MemoryStage::Denoise, peak);
        recorder.record(MemoryStage::Denoise, sample(300, 400));
        recorder.record_media([MemoryStage::Decode, MemoryStage::Align], 150, 210);
        recorder.record_media([MemoryStage::Decode, MemoryStage::Align], 100, 250);
        let used = recorder.finish(None);
        assert_eq!((used.peak_mib, used.least_free_mib), (6400, 19_558));
        let stages: Vec<_> = used
            .stages
            .iter()
            .map(|peak| (peak.stage, peak.live_mib, peak.own_mib))
            .collect();
        assert_eq!(
            stages,
            [
                (MemoryStage::Decode, 150, 250),
                (MemoryStage::Align, 150, 250),
                (MemoryStage::Denoise, 6000, 6400)
            ]
        );
    }

    #[test]
    fn the_kernels_count_is_taken_if_it_is_higher() {
        let mut recorder = recorder();
        recorder.record(MemoryStage::Denoise, sample(100, 200));
        assert_eq!(recorder.finish(Some(900)).peak_mib, 900);
    }
}
