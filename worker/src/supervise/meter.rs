//! What a task uses, stage by stage: peaks for its outcome, and lines for the log.

use std::collections::BTreeMap;

use latentfarm_common::wire::memory::{
    DeviceKind, MemoryPlan, MemorySample, MemoryStage, MemoryUse, StagePeak,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// From here on amounts are told in GiB.
const SHOWN_IN_GIB: u64 = GIB / 10;
/// A stage is told again when its use has changed by this much, or by this share of the device.
const NEWS_BYTES: u64 = 256 * MIB;
const NEWS_SHARE: u64 = 20;

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Worth an operator's eye: a stage's first reading in a task, or one that has changed much. The others are for
    /// who looks closely; there are several for each window.
    pub(super) is_news: bool,
}

/// Collects the samples of one task.
#[derive(Debug)]
pub(super) struct Meter {
    total: MemoryUse,
    peaks: BTreeMap<MemoryStage, StagePeak>,
    least_free: Option<u64>,
    peak: u64,
    /// The stage under way and its latest sample.
    pending: Option<(MemoryStage, MemorySample)>,
    told: BTreeMap<MemoryStage, MemorySample>,
}

impl Meter {
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
            },
            peaks: BTreeMap::new(),
            least_free: None,
            peak: 0,
            pending: None,
            told: BTreeMap::new(),
        }
    }

    /// Takes the engine's sample of `stage`; a line about the stage before where this one is another.
    pub(super) fn sample(&mut self, stage: MemoryStage, sample: MemorySample) -> Option<Line> {
        let line = match self.pending {
            Some((pending, _)) if pending != stage => self.stage_ends(),
            _ => None,
        };
        self.pending = Some((stage, sample));
        // The context and whatever else is not the allocator's stays while tensors come and go.
        let beside = sample.own.saturating_sub(sample.reserved);
        let own = sample
            .own
            .max(beside + sample.live_peak.max(sample.reserved_peak));
        self.peak = self.peak.max(own);
        self.least_free = Some(self.least_free.map_or(sample.free, |free| free.min(sample.free)));
        self.raise(stage, sample.live.max(sample.live_peak) / MIB, own / MIB);
        line
    }

    /// The request has ended, and with it its last stage.
    pub(super) fn stage_ends(&mut self) -> Option<Line> {
        let (stage, sample) = self.pending.take()?;
        let told = self.told.get(&stage);
        let is_news = told.is_none_or(|told| is_news(told, &sample));
        if is_news {
            self.told.insert(stage, sample);
        }
        Some(Line {
            text: readable(stage, &sample),
            is_news,
        })
    }

    /// Takes what the media process holds on the host after `stages`.
    pub(super) fn media(&mut self, stages: [MemoryStage; 2], held_mib: u64, rss_mib: u64) {
        for stage in stages {
            self.raise(stage, held_mib, rss_mib);
        }
    }

    /// The task's use. `kernel_peak_mib` is the engine's highest resident set where the kernel counted it, which
    /// misses nothing between two samples.
    pub(super) fn finish(self, kernel_peak_mib: Option<u64>) -> MemoryUse {
        MemoryUse {
            peak_mib: kernel_peak_mib.unwrap_or(0).max(self.peak / MIB),
            least_free_mib: self.least_free.unwrap_or(0) / MIB,
            stages: self.peaks.into_values().collect(),
            ..self.total
        }
    }

    fn raise(&mut self, stage: MemoryStage, live_mib: u64, own_mib: u64) {
        let peak = self.peaks.entry(stage).or_insert(StagePeak {
            stage,
            live_mib: 0,
            own_mib: 0,
        });
        peak.live_mib = peak.live_mib.max(live_mib);
        peak.own_mib = peak.own_mib.max(own_mib);
    }
}

fn is_news(told: &MemorySample, now: &MemorySample) -> bool {
    let enough = NEWS_BYTES.min(now.total / NEWS_SHARE);
    let moved = |before: u64, after: u64| before.abs_diff(after) > enough;
    moved(told.live, now.live) || moved(told.reserved, now.reserved) || moved(told.free, now.free)
}

fn readable(stage: MemoryStage, sample: &MemorySample) -> String {
    let gib = |bytes: u64| format!("{:.1}", bytes as f64 / GIB as f64);
    let (free, total) = (gib(sample.free), gib(sample.total));
    if sample.live.min(sample.reserved) >= SHOWN_IN_GIB {
        let (live, reserved) = (gib(sample.live), gib(sample.reserved));
        return format!("after {stage}: {live} GiB in use, {reserved} reserved, {free} free of {total}");
    }
    let (live, reserved) = (sample.live / MIB, sample.reserved / MIB);
    format!("after {stage}: {live} MiB in use, {reserved} MiB reserved, {free} GiB free of {total}")
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

    fn meter() -> Meter {
        Meter::new(
            DeviceKind::Cuda,
            "cuda:0 NVIDIA L4".to_owned(),
            MemoryPlan::Sliced,
            5000,
        )
    }

    #[test]
    fn a_line_is_told_at_the_end_of_each_stage_and_is_news_once_until_use_changes() {
        let mut meter = meter();
        assert_eq!(meter.sample(MemoryStage::VaeEncode, sample(4200, 4800)), None);
        assert_eq!(meter.sample(MemoryStage::VaeEncode, sample(4301, 4915)), None);
        let line = meter.sample(MemoryStage::Denoise, sample(3000, 4915)).unwrap();
        assert_eq!(
            line.text,
            "after VAE encode: 4.2 GiB in use, 4.8 reserved, 19.1 free of 24.0"
        );
        assert!(line.is_news);
        let line = meter.stage_ends().unwrap();
        assert!(
            line.is_news && line.text.starts_with("after denoise: 2.9 GiB"),
            "{line:?}"
        );
        assert_eq!(meter.stage_ends(), None);
        // The next window.
        meter.sample(MemoryStage::VaeEncode, sample(4310, 4915));
        let line = meter.sample(MemoryStage::Denoise, sample(3300, 4915)).unwrap();
        assert!(!line.is_news, "as before: {line:?}");
        assert!(
            meter.stage_ends().unwrap().is_news,
            "300 MiB more than the last time"
        );
    }

    #[test]
    fn small_amounts_are_told_in_mib() {
        let mut meter = meter();
        meter.sample(MemoryStage::Audio, sample(12, 80));
        assert_eq!(
            meter.stage_ends().unwrap().text,
            "after audio: 12 MiB in use, 80 MiB reserved, 19.1 GiB free of 24.0"
        );
    }

    #[test]
    fn peaks_are_kept_by_stage_and_the_total_counts_what_lies_beside_the_allocator() {
        let mut meter = meter();
        let peak = MemorySample {
            live_peak: 6000 * MIB,
            ..sample(100, 200)
        };
        meter.sample(MemoryStage::Denoise, peak);
        meter.sample(MemoryStage::Denoise, sample(300, 400));
        meter.media([MemoryStage::Decode, MemoryStage::Align], 150, 210);
        meter.media([MemoryStage::Decode, MemoryStage::Align], 100, 250);
        let used = meter.finish(None);
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
    fn the_kernels_count_is_believed_where_it_is_higher() {
        let mut meter = meter();
        meter.sample(MemoryStage::Denoise, sample(100, 200));
        assert_eq!(meter.finish(Some(900)).peak_mib, 900);
    }
}
