//! The input blobs of tasks: pure functions of the timeline and the track.

use latentfarm_common::audio::silence::mouth_share;
use latentfarm_common::audio::windows::windows_for;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::{JobSpec, OutputFrame, SegmentEntry, SilenceMode, Timeline};
use latentfarm_common::wire::task::{AnalyzeInput, Mouth, RenderFrame, RenderInput, SegmentSlice};

use crate::track::{FrameFace, SpeakerTrack};

/// The error for a timeline that contradicts its manifest or itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadTimeline {
    #[error("the timeline has {found} output frames, the manifest has {expected}")]
    Outputs { expected: u64, found: u64 },
    #[error("the timeline has {found} source frames, the manifest has {expected}")]
    Sources { expected: u64, found: u64 },
    #[error("the timeline uses the faces of {found} source frames, the manifest says {expected}")]
    Faces { expected: u64, found: u64 },
    #[error("output frame {output} shows source frame {source_frame}, which does not exist")]
    NoSuchSource { output: u64, source_frame: u64 },
    #[error("the track needs audio window {0}, which is not in the timeline")]
    NoSuchAudio(u32),
}

/// Whether the speaker track holds what a render chunk needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// The track is not final yet for some shown frame.
    Pending,
    Ready,
    /// The track will never hold the face of this source frame, because its analysis was given up.
    Blocked(u64),
}

/// Checks a timeline once, before anything is looked up in it.
pub(super) fn check(spec: &JobSpec, timeline: &Timeline) -> Result<(), BadTimeline> {
    let (outputs, sources) = (timeline.outputs.len() as u64, timeline.source_pts.len() as u64);
    if outputs != spec.frames {
        return Err(BadTimeline::Outputs {
            expected: spec.frames,
            found: outputs,
        });
    }
    if sources != spec.source.frames {
        return Err(BadTimeline::Sources {
            expected: spec.source.frames,
            found: sources,
        });
    }
    for (output, shown) in (0_u64..).zip(&timeline.outputs) {
        let source_frame = u64::from(shown.source);
        if source_frame >= sources {
            return Err(BadTimeline::NoSuchSource { output, source_frame });
        }
    }
    let faces = timeline.face_frames();
    if faces != spec.face_frames {
        return Err(BadTimeline::Faces {
            expected: spec.face_frames,
            found: faces,
        });
    }
    let windows = audio_windows(spec, FrameRange::new(0, spec.frames));
    match windows
        .into_iter()
        .find(|window| timeline.audio.get(*window as usize).is_none())
    {
        Some(missing) => Err(BadTimeline::NoSuchAudio(missing)),
        None => Ok(()),
    }
}

/// The PTS of the source frames up to the last one that is shown.
pub(super) fn shown_pts(timeline: &Timeline) -> &[i64] {
    let shown = shown_prefix(timeline, FrameRange::new(0, timeline.outputs.len() as u64));
    part(&timeline.source_pts, FrameRange::new(0, shown))
}

/// The number of source frames, from the first on, that must be analysed for the output frames of `range`.
pub(super) fn required_prefix(timeline: &Timeline, range: FrameRange) -> u64 {
    let synced = outputs(timeline, range).iter().filter(|shown| shown.synced);
    synced.map(|shown| u64::from(shown.source) + 1).max().unwrap_or(0)
}

/// The number of source frames, from the first on, that must have been cut for the output frames of `range`:
/// frames without speech are not analysed, but shown all the same.
pub(super) fn shown_prefix(timeline: &Timeline, range: FrameRange) -> u64 {
    let shown = outputs(timeline, range).iter();
    shown
        .map(|output| u64::from(output.source) + 1)
        .max()
        .unwrap_or(0)
}

/// Whether the track is final for every frame that the output frames of `range` show.
pub(super) fn readiness(timeline: &Timeline, track: &SpeakerTrack, range: FrameRange) -> Readiness {
    let mut blocked = None;
    for shown in outputs(timeline, range).iter().filter(|shown| shown.synced) {
        let source = u64::from(shown.source);
        match track.face(source) {
            None => return Readiness::Pending,
            Some(FrameFace::Unknown) => blocked = blocked.or(Some(source)),
            Some(FrameFace::Matrix(_) | FrameFace::Absent) => {}
        }
    }
    blocked.map_or(Readiness::Ready, Readiness::Blocked)
}

/// The input of the analysis of some source frames, with the frame before them if there is one. The segments
/// must cover them.
pub(super) fn analyze_input(
    timeline: &Timeline,
    segments: &[SegmentEntry],
    range: FrameRange,
) -> AnalyzeInput {
    let lead_in = FrameRange::new(range.start.saturating_sub(1), range.end);
    AnalyzeInput {
        segments: segments
            .iter()
            .filter_map(|segment| slice(timeline, segment, lead_in))
            .collect(),
    }
}

/// The input of the rendering of some output frames, for which the track must be final, and which the
/// segments must cover.
pub(super) fn render_input(
    spec: &JobSpec,
    timeline: &Timeline,
    segments: &[SegmentEntry],
    track: &SpeakerTrack,
    range: FrameRange,
) -> RenderInput {
    let shown = outputs(timeline, range);
    let frames = range.frames().zip(shown).map(|(number, output)| {
        let source = u64::from(output.source);
        let face = match track.face(source) {
            Some(FrameFace::Matrix(matrix)) if output.synced => Some(matrix),
            Some(FrameFace::Matrix(_) | FrameFace::Absent | FrameFace::Unknown) | None => None,
        };
        let mouth = mouth(spec.audio.silence, timeline, number);
        RenderFrame { source, face, mouth }
    });
    let segments = segments.iter().filter_map(|segment| {
        let sources = shown.iter().map(|output| u64::from(output.source));
        let inside = sources.filter(|source| whole(segment).contains(*source));
        let (first, last) = inside.fold(None, |bounds: Option<(u64, u64)>, source| {
            let (first, last) = bounds.unwrap_or((source, source));
            Some((first.min(source), last.max(source)))
        })?;
        slice(timeline, segment, FrameRange::new(first, last + 1))
    });
    let audio = audio_windows(spec, range)
        .into_iter()
        .filter_map(|window| Some((window, *timeline.audio.get(window as usize)?)));
    RenderInput {
        segments: segments.collect(),
        frames: frames.collect(),
        audio: audio.collect(),
    }
}

/// Decides how the mouth of an output frame is made.
pub(super) fn mouth(mode: SilenceMode, timeline: &Timeline, frame: u64) -> Mouth {
    let next = timeline.silence.partition_point(|stretch| stretch.end <= frame);
    let stretch = timeline
        .silence
        .get(next)
        .filter(|stretch| stretch.contains(frame));
    match (mode, stretch) {
        (SilenceMode::Off, _) | (_, None) => Mouth::Speech,
        (SilenceMode::Close, Some(_)) => Mouth::Closed,
        (SilenceMode::Keep, Some(stretch)) => {
            // The last silence may be followed by a tail without speech, or by nothing.
            let after = part(&timeline.outputs, FrameRange::new(stretch.end, stretch.end + 1));
            let speech_after = after.iter().any(|output| output.synced);
            match mouth_share(frame, *stretch, stretch.start > 0, speech_after) {
                0 => Mouth::Kept,
                share => Mouth::Fading(share),
            }
        }
    }
}

fn audio_windows(spec: &JobSpec, range: FrameRange) -> Vec<u32> {
    windows_for(range, spec.encoder.rate, spec.audio.samples, spec.audio.windows)
}

fn outputs(timeline: &Timeline, range: FrameRange) -> &[OutputFrame] {
    part(&timeline.outputs, range)
}

/// The items of `range`. They are empty if the slice is too short, which [`check`] has excluded.
pub(super) fn part<T>(items: &[T], range: FrameRange) -> &[T] {
    let bounds = usize::try_from(range.start)
        .ok()
        .zip(usize::try_from(range.end).ok());
    bounds
        .and_then(|(start, end)| items.get(start..end))
        .unwrap_or(&[])
}

fn whole(segment: &SegmentEntry) -> FrameRange {
    FrameRange::new(segment.first, segment.first + segment.frames)
}

/// The part of a segment that lies in `wanted`.
fn slice(timeline: &Timeline, segment: &SegmentEntry, wanted: FrameRange) -> Option<SegmentSlice> {
    let start = segment.first.max(wanted.start);
    let end = (segment.first + segment.frames).min(wanted.end);
    (start < end).then(|| SegmentSlice {
        blob: segment.blob,
        first: start,
        pts: part(&timeline.source_pts, FrameRange::new(start, end)).to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::benchmark_job::{benchmark_job, benchmark_segments};
    use crate::dispatch::test_support;

    fn analyze(track: &mut SpeakerTrack, range: FrameRange) {
        track
            .add(range, test_support::observations(range.len(), 20.0))
            .unwrap();
    }

    fn segments() -> Vec<SegmentEntry> {
        benchmark_segments(64)
            .into_iter()
            .map(|record| record.entry)
            .collect()
    }

    #[test]
    fn analysis_gets_one_frame_of_lead_in_across_a_segment_bound() {
        let (_spec, timeline) = benchmark_job(64, 64);
        let input = analyze_input(&timeline, &segments(), FrameRange::new(32, 48));
        let slices: Vec<_> = input.segments.iter().map(|s| (s.first, s.pts.len())).collect();
        assert_eq!(slices, [(31, 1), (32, 16)]);
        assert_eq!(input.segments[1].pts[0], timeline.source_pts[32]);
        assert_eq!(
            analyze_input(&timeline, &segments(), FrameRange::new(0, 16)).segments[0].first,
            0
        );
    }

    #[test]
    fn render_input_names_every_shown_frame_and_the_pictures_around_a_turn() {
        let (spec, mut timeline) = benchmark_job(64, 64);
        let bounce = (0..16_u32).map(|n| if n < 8 { 40 + n } else { 55 - n });
        for (output, source) in timeline.outputs.iter_mut().zip(bounce) {
            output.source = source;
        }
        timeline.outputs[15].synced = false;
        let range = FrameRange::new(0, 16);
        let mut track = SpeakerTrack::new(64, 16, 256);
        analyze(&mut track, FrameRange::new(0, 64));
        let input = render_input(&spec, &timeline, &segments(), &track, range);
        assert_eq!(input.frames.len(), 16);
        assert_eq!(input.segments.len(), 1);
        assert_eq!((input.segments[0].first, input.segments[0].pts.len()), (40, 8));
        assert!(input.frames[..15].iter().all(|frame| frame.face.is_some()));
        assert_eq!(input.frames[15].face, None, "no speech, no face");
        assert_eq!(input.audio, [(0, timeline.audio[0])]);
        assert_eq!(required_prefix(&timeline, range), 48);
        timeline.outputs[15].source = 60;
        assert_eq!(
            required_prefix(&timeline, range),
            48,
            "a frame without speech is not analysed"
        );
        assert_eq!(shown_prefix(&timeline, range), 61);
    }

    #[test]
    fn silence_is_a_function_of_the_whole_track_and_not_of_the_chunk() {
        let (mut spec, mut timeline) = benchmark_job(64, 64);
        timeline.silence = vec![FrameRange::new(0, 6), FrameRange::new(20, 40)];
        let mut track = SpeakerTrack::new(64, 16, 256);
        analyze(&mut track, FrameRange::new(0, 64));
        let mouths = |spec: &JobSpec, chunk: u64| -> Vec<Mouth> {
            (0..64 / chunk)
                .flat_map(|n| {
                    let range = FrameRange::new(n * chunk, (n + 1) * chunk);
                    render_input(spec, &timeline, &segments(), &track, range).frames
                })
                .map(|frame| frame.mouth)
                .collect()
        };
        assert!(mouths(&spec, 64).iter().all(|mouth| *mouth == Mouth::Speech));
        spec.audio.silence = SilenceMode::Keep;
        let kept = mouths(&spec, 64);
        assert_eq!(kept, mouths(&spec, 16));
        assert_eq!(kept[..3], [Mouth::Kept; 3]);
        assert_eq!(
            kept[3..7],
            [
                Mouth::Fading(63),
                Mouth::Fading(127),
                Mouth::Fading(191),
                Mouth::Speech
            ]
        );
        assert_eq!(kept[19..21], [Mouth::Speech, Mouth::Fading(191)]);
        assert_eq!(kept[23..37], [Mouth::Kept; 14]);
        spec.audio.silence = SilenceMode::Close;
        let closed = mouths(&spec, 16);
        assert_eq!(closed.iter().filter(|mouth| **mouth == Mouth::Closed).count(), 26);
        assert_eq!(closed[40], Mouth::Speech);
    }

    #[test]
    fn a_chunk_is_ready_when_its_last_shown_frame_is() {
        let (_spec, timeline) = benchmark_job(64, 64);
        let mut track = SpeakerTrack::new(64, 16, 256);
        let range = FrameRange::new(0, 32);
        assert_eq!(readiness(&timeline, &track, range), Readiness::Pending);
        analyze(&mut track, FrameRange::new(0, 16));
        assert_eq!(readiness(&timeline, &track, range), Readiness::Pending);
        track.mark_missing(FrameRange::new(16, 32));
        assert_eq!(readiness(&timeline, &track, range), Readiness::Blocked(16));
        assert_eq!(
            readiness(&timeline, &track, FrameRange::new(0, 16)),
            Readiness::Ready
        );
    }

    #[test]
    fn a_timeline_that_contradicts_the_manifest_is_refused() {
        let (spec, timeline) = benchmark_job(64, 64);
        assert_eq!(check(&spec, &timeline), Ok(()));
        let broken = |change: fn(&mut Timeline)| {
            let mut broken = timeline.clone();
            change(&mut broken);
            check(&spec, &broken).unwrap_err()
        };
        let extra = OutputFrame {
            source: 99,
            synced: true,
        };
        assert_eq!(
            broken(|t| t.outputs.truncate(63)),
            BadTimeline::Outputs {
                expected: 64,
                found: 63
            }
        );
        assert_eq!(
            broken(|t| t.source_pts.truncate(1)),
            BadTimeline::Sources {
                expected: 64,
                found: 1
            }
        );
        assert_eq!(broken(|t| t.audio.clear()), BadTimeline::NoSuchAudio(0));
        let mut wrong = timeline.clone();
        wrong.outputs[5] = extra;
        let expected = BadTimeline::NoSuchSource {
            output: 5,
            source_frame: 99,
        };
        assert_eq!(check(&spec, &wrong), Err(expected));
    }
}
