//! The jobs of a run, as the farm's registry keeps them: what was submitted, how an operator wants it, and how it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, ChunkId, JobId};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::job::{JobSpec, Timeline, WeightsKind};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryRequirements};
use tokio::sync::mpsc;

use super::random::Random;
use crate::dispatch::benchmark_job::{benchmark_job, benchmark_segments};
use crate::dispatch::order::PlannedJob;
use crate::dispatch::settings::{DispatchSettings, JobSettings};
use crate::job::chunks::Ending;
use crate::job::segments::{VideoNews, whole_video};
use crate::placement::{CpuFallback, JobNeeds, OneKind};

/// A job of the registry.
#[derive(Clone, Debug)]
pub(super) struct StoredJob {
    pub(super) spec: JobSpec,
    pub(super) timeline: Timeline,
    pub(super) settings: JobSettings,
    pub(super) is_paused: bool,
    pub(super) is_cancelled: bool,
    /// How it ended, if it has.
    pub(super) ending: Option<Ending>,
    /// The share of its predicted memory that a chunk takes, in percent, by the kind of device.
    true_percent: [u64; 2],
    /// The chunk that no worker can do, if there is one.
    pub(super) poisoned: Option<u32>,
    /// The results that count for a coordinator: its epoch, and the attempt.
    pub(super) counted: BTreeMap<ChunkId, (u64, Attempt)>,
}

impl StoredJob {
    /// Draws a job; `number` makes its name.
    pub(super) fn draw(random: &mut Random, number: u64) -> Self {
        let sources = u32::try_from(16 * random.within(1, 3)).unwrap();
        let outputs = u32::try_from(16 * random.within(1, 5)).unwrap();
        let (mut spec, timeline) = benchmark_job(sources, outputs);
        spec.id = JobId::from_digest(&Digest::of(format!("job {number}").as_bytes()));
        if random.chance(500) {
            spec.video_digest = Digest::of(format!("video {number}").as_bytes());
        }
        if random.chance(500) {
            // Its results are compared with their source, and so wait until that is known.
            spec.model.weights_kind = WeightsKind::Trained;
        }
        let gpu = random.pick(&[2000, 6000, 14_000]);
        let needs = |most: u64| MemoryRequirements {
            mib: [100, 84, 67, 67, 50, 42].map(|percent| most * percent / 100),
        };
        let needs = JobNeeds {
            cpu: random.chance(850).then(|| needs(random.pick(&[3000, 7000]))),
            cuda: Some(needs(gpu)),
            media_mib: 400,
        };
        // Nothing is at this path, so no journal is written.
        let mut settings = DispatchSettings::new(PathBuf::from("/dev/null/job"), needs).job;
        settings.priority = u8::try_from(random.within(0, 2)).unwrap();
        settings.cpu_fallback = random.pick(&[CpuFallback::Last, CpuFallback::Always, CpuFallback::Never]);
        settings.one_kind = random.pick(&[None, None, Some(OneKind::Job), Some(OneKind::Shot)]);
        settings.unplaceable_wait = Duration::from_secs(random.within(60, 180));
        if random.chance(150) {
            settings.needed_tags = Tags::from("eu".parse().ok());
        }
        Self {
            spec,
            timeline,
            settings,
            is_paused: false,
            is_cancelled: false,
            ending: None,
            true_percent: [random.within(60, 120), random.within(60, 120)],
            poisoned: random.chance(60).then_some(0),
            counted: BTreeMap::new(),
        }
    }

    /// What a window takes under a plan, in MiB; the prediction may be wrong.
    pub(super) fn true_need(&self, kind: DeviceKind, plan: MemoryPlan) -> u64 {
        let predicted = self.settings.needs.of(kind).map_or(0, |needs| needs.of(plan));
        let percent = match kind {
            DeviceKind::Cpu => self.true_percent[0],
            DeviceKind::Cuda => self.true_percent[1],
        };
        predicted * percent / 100
    }

    /// The job as a coordinator takes it, whose video is cut already.
    pub(super) fn planned(&self) -> PlannedJob {
        PlannedJob {
            spec: self.spec.clone(),
            timeline: self.timeline.clone(),
            video: self.video(),
        }
    }

    fn video(&self) -> mpsc::UnboundedReceiver<VideoNews> {
        whole_video(benchmark_segments(
            u32::try_from(self.spec.source.frames).unwrap(),
        ))
    }

    pub(super) fn is_open(&self) -> bool {
        self.ending.is_none()
    }
}
