//! Tests that cut clips into segments and read the frames back.

use latentfarm_common::frame::{ColourMatrix, ColourRange};
use latentfarm_common::media::{FrameReader, VideoCodec, probe_video};
use latentfarm_common::time::TimeBase;

use crate::support::{Clips, check, cut, refusal, shown, slices, source};

#[test]
fn closed_gop_h264_is_cut_by_copying() {
    let clips = Clips::new();
    let path = clips.video("a.mp4", 200, "-c:v libx264 -g 20 -bf 3 -x264-params open-gop=0");
    let cut = check(&clips, &path);
    assert!(cut.segments.iter().all(|segment| !segment.reencoded));
    assert!(cut.segments.len() >= 7, "{}", cut.segments.len());
    let probe = probe_video(&path).unwrap();
    assert_eq!(probe.codec, VideoCodec::H264);
    assert_eq!((probe.picture.width, probe.picture.height), (128, 96));
    assert_eq!(probe.average_rate.unwrap().to_string(), "25");
}

#[test]
fn open_gop_h264_is_cut_at_idr_frames_only() {
    let clips = Clips::new();
    let path = clips.video(
        "a.mp4",
        150,
        "-c:v libx264 -g 20 -bf 3 -x264-params open-gop=1:b-adapt=0",
    );
    let cut = check(&clips, &path);
    assert!(
        cut.segments.iter().all(|segment| segment.reencoded),
        "no IDR but the first"
    );
}

#[test]
fn closed_and_open_gop_hevc_come_back_exactly() {
    let clips = Clips::new();
    for (name, open, reencoded) in [("a.mp4", 0, false), ("b.mkv", 1, true)] {
        let params = format!("log-level=none:open-gop={open}:keyint=25:min-keyint=25:scenecut=0");
        let path = clips.video(name, 120, &format!("-c:v libx265 -x265-params {params}"));
        let cut = check(&clips, &path);
        assert!(
            cut.segments.iter().any(|segment| segment.reencoded) == reencoded,
            "{name}: {:?}",
            cut.segments
        );
        assert_eq!(probe_video(&path).unwrap().codec, VideoCodec::Hevc);
    }
}

#[test]
fn single_keyframe_file_is_encoded_anew_in_bounds() {
    let clips = Clips::new();
    let path = clips.video("a.mp4", 150, "-c:v libx264 -g 9999 -bf 2");
    let cut = check(&clips, &path);
    assert!(
        cut.segments
            .iter()
            .all(|segment| segment.reencoded && segment.frames <= 32)
    );
}

#[test]
fn full_range_and_tags_survive() {
    let clips = Clips::new();
    let tags =
        "-vf scale=out_range=pc -color_range pc -colorspace bt709 -color_primaries bt709 -color_trc bt709";
    let path = clips.video("a.mp4", 90, &format!("-c:v libx264 -g 9999 {tags}"));
    check(&clips, &path);
    let colour = probe_video(&path).unwrap().picture.colour;
    assert_eq!(
        (colour.matrix, colour.range, colour.range_tagged),
        (ColourMatrix::Bt709, ColourRange::Full, true)
    );
    assert_eq!(
        (colour.primaries_tag, colour.transfer_tag, colour.matrix_tag),
        (1, 1, 1)
    );
    let plain = clips.video("b.mp4", 2, "-c:v libx264");
    let colour = probe_video(&plain).unwrap().picture.colour;
    assert_eq!(
        (colour.matrix, colour.range, colour.matrix_tag),
        (ColourMatrix::Bt601, ColourRange::Limited, 2)
    );
}

#[test]
fn edit_list_hides_the_frames_before_the_cut() {
    let clips = Clips::new();
    clips.video("whole.mp4", 150, "-c:v libx264 -g 40 -bf 3");
    let path = clips.make("part.mp4", "-ss 2.2 -i IN:whole.mp4 -c copy");
    let cut = check(&clips, &path);
    assert_eq!(cut.pts.len(), 150 - 55, "the frames before 2.2 s are hidden");
}

#[test]
fn stream_that_begins_with_an_open_gop_drops_its_undecodable_start() {
    let clips = Clips::new();
    let coding = "-c:v libx265 -x265-params log-level=none:open-gop=1:keyint=25:min-keyint=25:scenecut=0";
    clips.video("whole.mkv", 100, coding);
    let path = clips.make("part.mkv", "-ss 1.1 -i IN:whole.mkv -c copy -copyts");
    check(&clips, &path);
}

#[test]
fn time_stamps_of_any_time_base_are_kept() {
    let clips = Clips::new();
    let coding = "-c:v libx264 -g 20 -bf 3";
    let vfr = "-vf setpts=N*(1+mod(N\\,3))/(60*TB) -vsync vfr";
    for (name, extra, base) in [
        ("ms.mkv", "", (1, 1000)),
        ("ninety.mp4", "-video_track_timescale 90000", (1, 90_000)),
        ("vfr.mp4", vfr, (1, 12_800)),
        ("offset.mkv", "-output_ts_offset 7.5", (1, 1000)),
    ] {
        let path = clips.video(name, 100, &format!("{coding} {extra}"));
        check(&clips, &path);
        let (num, den) = base;
        assert_eq!(
            probe_video(&path).unwrap().time_base,
            TimeBase { num, den },
            "{name}"
        );
    }
}

#[test]
fn access_order_does_not_change_pictures() {
    let clips = Clips::new();
    let path = clips.video("a.mp4", 130, "-c:v libx264 -g 50 -bf 3");
    let cut = cut(&path, clips.0.path());
    let source = source(&path, &cut);
    let mut forward = FrameReader::new(slices(&cut), &source);
    let pictures: Vec<_> = (0..130)
        .map(|frame| forward.frame(frame).unwrap().hash())
        .collect();
    let mut reader = FrameReader::new(slices(&cut), &source);
    let backwards = (0..130).rev();
    let jumps = (0..130).map(|frame| frame * 37 % 130);
    for frame in backwards.chain(jumps) {
        let hash = reader.frame(frame).unwrap().hash();
        assert_eq!(hash, pictures[usize::try_from(frame).unwrap()], "frame {frame}");
    }
}

#[test]
fn frame_that_a_segment_lacks_is_named() {
    let clips = Clips::new();
    let path = clips.video("a.mp4", 40, "-c:v libx264 -g 20");
    let cut = cut(&path, clips.0.path());
    let mut wrong = slices(&cut);
    wrong[0].pts[5] += 1;
    let mut reader = FrameReader::new(wrong, &source(&path, &cut));
    assert!(reader.frame(4).is_ok());
    let message = refusal(reader.frame(5));
    assert!(message.contains("source frame 5"), "{message}");
    assert!(reader.frame(6).is_ok());
    assert!(refusal(reader.frame(40)).contains("source frame 40"));
}

#[test]
fn h264_that_begins_with_an_open_gop_shows_its_first_keyframe_first() {
    let clips = Clips::new();
    let whole = clips.video(
        "whole.mkv",
        100,
        "-c:v libx264 -g 25 -bf 3 -x264-params open-gop=1:b-adapt=0:scenecut=0",
    );
    let path = clips.make("part.mkv", "-ss 2.5 -i IN:whole.mkv -c copy -copyts");
    let cut = cut(&path, clips.0.path());
    let expected = shown(&whole);
    let mut reader = FrameReader::new(slices(&cut), &source(&path, &cut));
    assert!(
        cut.pts.len() < 80,
        "leading pictures without references are not frames"
    );
    for (number, pts) in (0..).zip(&cut.pts) {
        let picture = reader.frame(number).unwrap();
        let planes = [&picture.y[..], &picture.u, &picture.v].concat();
        let (_, pixels) = expected.iter().find(|frame| frame.0 == *pts).unwrap();
        assert!(planes == *pixels, "frame {number}");
    }
}

#[test]
fn a_video_of_one_frame_is_one_segment() {
    let clips = Clips::new();
    for (name, codec) in [
        ("a.mp4", "libx264"),
        ("b.mkv", "libx265 -x265-params log-level=none"),
    ] {
        let path = clips.video(name, 1, &format!("-c:v {codec}"));
        let cut = check(&clips, &path);
        assert_eq!((cut.pts.len(), cut.segments.len()), (1, 1), "{name}");
    }
}

/// Two HEVC streams, one after the other, whose time stamps start anew in the middle: muxers write such an index if
/// recordings are joined by copying their bytes.
#[test]
fn joined_hevc_recordings_are_one_video() {
    let clips = Clips::new();
    let coding = "-c:v libx265 -x265-params log-level=none:keyint=25:bframes=4";
    let [first, second] = ["a.ts", "b.ts"].map(|name| clips.video(name, 50, coding));
    let joined = [first, second].map(|path| std::fs::read(path).unwrap()).concat();
    std::fs::write(clips.path("ab.ts"), joined).unwrap();
    for name in ["ab.mp4", "ab.mkv"] {
        let path = clips.make(name, "-i IN:ab.ts -c copy");
        let cut = check(&clips, &path);
        assert_eq!(cut.pts.len(), 100, "{name}");
        assert_eq!(cut.defects, [], "{name}");
    }
}
