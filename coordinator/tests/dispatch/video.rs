//! Chunks are rendered while the source video is still being cut.

use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::blob::Store;
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{JobId, WorkKind};
use latentfarm_common::nats::tasks::TaskStream;
use latentfarm_common::nats::topology::{self, Topology};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire;
use latentfarm_common::wire::job::{CutRecord, SegmentRecord};
use latentfarm_common::wire::task::{AnalyzeInput, TaskBody};
use latentfarm_coordinator::dispatch::benchmark_job::benchmark_segments;
use latentfarm_coordinator::dispatch::{Ending, JobEvent, Progress};
use latentfarm_coordinator::job::segment_log::{SegmentLog, SegmentLogError};
use latentfarm_coordinator::job::segments::VideoNews;
use tokio::sync::{mpsc, watch};

use crate::support::{Act, AttemptCounter, Run, Script, Stage, always, begins};

/// The source frames of the tests' jobs: more than the speaker track looks ahead, so that chunks can be
/// rendered before the video ends.
const FRAMES: u32 = 480;
/// The source frames in the segments that are there first.
const FIRST: u64 = 320;

fn segment(record: SegmentRecord) -> VideoNews {
    VideoNews::Recorded(CutRecord::Segment(record))
}

/// Dispatches the job with the segments of the first frames. Returns the sender of the others, and those.
async fn begin(stage: &Stage) -> (Run, mpsc::UnboundedSender<VideoNews>, Vec<SegmentRecord>) {
    let (news, video) = mpsc::unbounded_channel();
    let segments = benchmark_segments(FRAMES).into_iter();
    let (first, rest): (Vec<_>, Vec<_>) = segments.partition(|record| record.entry.first < FIRST);
    for record in first {
        news.send(segment(record)).unwrap();
    }
    let run = stage
        .dispatch_video(video, stage.settings.clone(), Arc::new(|_, _, _| Ok(())))
        .await;
    (run, news, rest)
}

/// Waits until the progress is one that `wanted` accepts.
async fn progress(run: &mut Run, what: &str, wanted: impl Fn(&Progress) -> bool) {
    run.wait_for(
        what,
        |event| matches!(event, JobEvent::Progress(progress) if wanted(progress)),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_whose_frames_are_cut_are_rendered_and_a_job_is_complete_with_the_end_of_its_video() {
    let stage = Stage::open(FRAMES).await;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let (mut run, news, rest) = begin(&stage).await;
    progress(&mut run, "the first chunks are rendered", |progress| {
        progress.analyze.frames_done == FIRST && progress.render.frames_done > 0
    })
    .await;
    let ticks = 2;
    for _ in 0..ticks {
        progress(&mut run, "the job goes on", |_| true).await;
    }
    for (chunk, _) in counter.begun() {
        assert!(
            u64::from(chunk.index) * 16 < FIRST,
            "{chunk} was begun before its frames were cut"
        );
    }

    for record in rest {
        news.send(segment(record)).unwrap();
    }
    let all = u64::from(FRAMES);
    progress(&mut run, "all chunks are done", |progress| {
        progress.render.frames_done == all
    })
    .await;
    // A job that ended would send none.
    for _ in 0..ticks {
        progress(&mut run, "the job waits for the end of its video", |_| true).await;
    }
    news.send(VideoNews::Recorded(CutRecord::End)).unwrap();
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert!(counter.begun().values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analysis_at_a_bound_of_segments_gets_the_frame_before_it() {
    let stage = Stage::open(FRAMES).await;
    let counter = AttemptCounter::default();
    let (seen, mut inputs) = mpsc::unbounded_channel();
    let script: Script = Arc::new(move |task, _| {
        if let TaskBody::Analyze(analyze) = &task.body {
            seen.send((analyze.range, analyze.input, task.store.clone()))
                .unwrap();
        }
        Act::Succeed
    });
    let _w1 = stage.worker("w1", &counter, script).await;
    let (_run, _news, _rest) = begin(&stage).await;
    let (input, store) = loop {
        let (range, input, store) = inputs.recv().await.unwrap();
        if range == FrameRange::new(32, 48) {
            break (input, store);
        }
    };
    let store = Store::open(&store, None).unwrap();
    let input: AnalyzeInput = wire::decode(&store.get_bytes(&input).await.unwrap()).unwrap();
    let slices: Vec<_> = input
        .segments
        .iter()
        .map(|slice| (slice.first, slice.pts.len()))
        .collect();
    assert_eq!(slices, [(31, 1), (32, 16)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_that_cannot_be_cut_ends_the_job_and_leaves_no_task() {
    let stage = Stage::open(FRAMES).await;
    let counter = AttemptCounter::default();
    let (_gate, closed) = watch::channel(false);
    let script: Script = Arc::new(move |task, _| match task.chunk.work {
        WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => Act::Wait(closed.clone()),
        WorkKind::Analyze => Act::Succeed,
    });
    let _w1 = stage.worker("w1", &counter, script).await;
    let (mut run, news, _rest) = begin(&stage).await;
    run.wait_for("a chunk is being rendered", begins(0)).await;
    let reason = "`v.mp4` cannot be decoded at 14.000 s".to_owned();
    news.send(VideoNews::Failed {
        reason: reason.clone(),
    })
    .unwrap();
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::NoVideo { reason });
    assert_eq!(result.records.len(), 0);
    let tasks = TaskStream::new(&stage.farm.connection, Topology::default());
    assert_eq!(
        tasks.queued(stage.spec.id).await.unwrap(),
        [],
        "queued and running tasks are removed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_for_which_the_storage_stays_full_ends_the_job_with_the_mend() {
    let mut stage = Stage::open(FRAMES).await;
    stage.settings.job.unplaceable_wait = Duration::from_secs(1);
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let (run, news, _rest) = begin(&stage).await;
    news.send(VideoNews::StorageFull {
        error: "maximum bytes exceeded".to_owned(),
    })
    .unwrap();
    let result = run.end().await.unwrap();
    let Ending::NoWorker { reason } = result.ending else {
        panic!("{:?}", result.ending)
    };
    for part in [
        "the farm's storage is full: maximum bytes exceeded",
        "give JetStream more room",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    // The frames that had been cut before were rendered all the same.
    assert!(!result.records.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_contradict_each_other_end_the_job() {
    let stage = Stage::open(FRAMES).await;
    let (run, news, mut rest) = begin(&stage).await;
    news.send(segment(rest.pop().unwrap())).unwrap();
    let result = run.end().await.unwrap();
    let Ending::NoVideo { reason } = result.ending else {
        panic!("{:?}", result.ending)
    };
    assert!(reason.contains("do not cover source frame 320"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_coordinator_goes_on_with_the_cut_and_renders_nothing_twice() {
    let stage = Stage::open(FRAMES).await;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let (mut first, _news, _rest) = begin(&stage).await;
    progress(&mut first, "all that can be rendered is", |progress| {
        let open = progress.render.backlog + progress.render.queued + progress.render.running;
        progress.analyze.frames_done == FIRST && progress.render.frames_done > 0 && open == 0
    })
    .await;
    first.job.abort();

    let second = stage
        .dispatch_with(stage.seizing(), Arc::new(|_, _, _| Ok(())))
        .await;
    let result = second.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(counter.begun().len(), 60);
    for (chunk, times) in counter.begun() {
        assert_eq!(times, 1, "{chunk}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_segment_is_written_once_and_the_first_one_counts() {
    let stage = Stage::open(64).await;
    let connection = &stage.farm.connection;
    topology::ensure(&connection.context, &stage.farm.topology)
        .await
        .unwrap();
    let open = async |name: &[u8]| {
        let job = JobId::from_digest(&Digest::of(name));
        SegmentLog::open(connection, job).await.unwrap()
    };
    let (log, other) = (open(b"one").await, open(b"other").await);
    assert_eq!(log.list().await.unwrap(), []);
    // More than ten, so that their numbers have different lengths.
    let records: Vec<CutRecord> = benchmark_segments(384)
        .into_iter()
        .map(CutRecord::Segment)
        .chain([CutRecord::End])
        .collect();
    for (number, record) in (0..).zip(&records) {
        assert_eq!(log.append(number, record).await.unwrap(), *record);
        other.append(number, record).await.unwrap();
    }
    assert_eq!(log.list().await.unwrap(), records);

    // The same frames, encoded to other bytes.
    let CutRecord::Segment(mut again) = records[1].clone() else {
        panic!("it is a segment")
    };
    again.entry.blob.bytes += 1;
    let counts = log.append(1, &CutRecord::Segment(again.clone())).await.unwrap();
    assert_eq!(counts, records[1]);
    again.entry.frames += 1;
    for other in [CutRecord::Segment(again), CutRecord::End] {
        let error = log.append(1, &other).await.unwrap_err();
        assert!(matches!(error, SegmentLogError::Differs { number: 1 }), "{error}");
    }
    assert_eq!(log.list().await.unwrap(), records);
}
