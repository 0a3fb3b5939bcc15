//! Tests that damage is resolved when a video is cut: every frame has a picture afterwards, and what was done
//! is known by time.

use latentfarm_common::frame::Picture;
use latentfarm_common::media::{FrameReader, probe_video};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::{DefectKind, SourceDefect};

use crate::support::{Clips, CutVideo, cut, cut_video, refusal, slices, source};

/// Reads every frame of a video that was cut.
fn pictures(path: &std::path::Path, cut: &CutVideo) -> Vec<Picture> {
    let mut reader = FrameReader::new(slices(cut), &source(path, cut));
    let numbers = 0..cut.pts.len() as u64;
    numbers.map(|number| reader.frame(number).unwrap()).collect()
}

fn frames_of(defects: &[SourceDefect], kind: DefectKind) -> Vec<FrameRange> {
    let of_kind = defects.iter().filter(|defect| defect.kind == kind);
    of_kind.map(|defect| defect.frames).collect()
}

#[test]
fn a_hole_costs_the_pictures_in_it_and_no_others() {
    for (name, fill, coding) in [
        ("a.mp4", 0, "-c:v libx264 -g 25 -crf 10 -bf 2"),
        ("b.mov", 0x5a, "-c:v libx264 -g 25 -crf 10 -bf 0"),
        (
            "c.mp4",
            0x5a,
            "-c:v libx265 -x265-params log-level=none:keyint=25:open-gop=0:crf=10",
        ),
        // No safe cut: the whole video is re-encoded anyway.
        ("d.mp4", 0, "-c:v libx264 -g 999 -crf 10 -bf 2"),
    ] {
        let clips = Clips::new();
        let path = clips.video(name, 100, coding);
        let whole = pictures(&path, &cut(&path, clips.0.path()));
        clips.damage(name, 0.5, 16 << 10, fill);
        let damaged = cut(&path, clips.0.path());
        let seen = pictures(&path, &damaged);
        assert!(!damaged.defects.is_empty(), "{name}");
        let first = damaged.defects[0].frames.start;
        let last = damaged
            .defects
            .iter()
            .map(|defect| defect.frames.end)
            .max()
            .unwrap();
        assert!(last - first < 25, "{name}: {:?}", damaged.defects);
        assert_eq!(damaged.defects[0].start_ms, first * 40, "{name}");
        // Pictures before the hole are whole, and so are those after the next keyframe.
        for frame in (0..100).filter(|frame| *frame + 3 < first || (name != "d.mp4" && *frame > last + 25)) {
            let at = usize::try_from(frame).unwrap();
            assert!(seen[at] == whole[at], "{name}: frame {frame}");
        }
        for range in frames_of(&damaged.defects, DefectKind::Repeated) {
            for frame in range.frames() {
                let at = usize::try_from(frame).unwrap();
                assert!(
                    seen[at] == seen[at - 1],
                    "{name}: frame {frame} repeats the one before"
                );
            }
        }
    }
}

#[test]
fn frames_before_the_first_picture_show_it() {
    let clips = Clips::new();
    let path = clips.video("a.mp4", 100, "-c:v libx264 -g 25 -crf 10 -bf 0");
    clips.damage("a.mp4", 0.0, 4000, 0);
    let cut = cut(&path, clips.0.path());
    let lost = frames_of(&cut.defects, DefectKind::Repeated);
    assert!(
        lost.first().is_some_and(|range| range.start == 0),
        "{:?}",
        cut.defects
    );
    let seen = pictures(&path, &cut);
    let first = usize::try_from(lost[0].end).unwrap();
    assert!((1..=25).contains(&first), "{lost:?}");
    assert!(seen[..first].iter().all(|picture| *picture == seen[first]));
}

/// Joins clips of 25 frames each, of these codings, by copying their packets.
fn joined(clips: &Clips, name: &str, codings: &[&str]) -> std::path::PathBuf {
    let mut whole = Vec::new();
    for (part, coding) in (0..).zip(codings) {
        let picture = format!("-f lavfi -i testsrc2=s=320x180:r=25:d={} -ss {part}", part + 1);
        let stamps = format!("-output_ts_offset {part} -muxdelay 0 -f mpegts");
        let path = clips.make("part.ts", &format!("{picture} {coding} {stamps}"));
        whole.extend(std::fs::read(path).unwrap());
    }
    std::fs::write(clips.path("whole.ts"), whole).unwrap();
    clips.make(name, "-i IN:whole.ts -c copy")
}

#[test]
fn pictures_of_another_form_are_converted_to_that_of_the_first() {
    let first = "-c:v libx264 -bf 0 -pix_fmt yuv420p";
    for (name, second, tolerance) in [
        (
            "size.mp4",
            "-vf scale=160:90 -c:v libx264 -bf 0 -pix_fmt yuv420p",
            12.0,
        ),
        (
            "turned.mkv",
            "-vf scale=180:320 -c:v libx264 -bf 2 -pix_fmt yuv420p",
            12.0,
        ),
        ("chroma.mp4", "-c:v libx264 -bf 0 -pix_fmt yuv422p", 3.0),
        ("deep.mkv", "-c:v libx264 -bf 0 -pix_fmt yuv420p10le", 3.0),
        (
            "range.mp4",
            "-vf scale=out_range=pc -c:v libx264 -pix_fmt yuvj420p",
            3.0,
        ),
        (
            "matrix.mkv",
            "-vf scale=out_color_matrix=bt709 -colorspace bt709 -c:v libx264 -pix_fmt yuv420p",
            3.0,
        ),
    ] {
        let clips = Clips::new();
        let tagged = format!("-colorspace smpte170m {first}");
        let path = joined(&clips, name, &[&tagged, second, &tagged]);
        let plain = clips.path("plain");
        std::fs::create_dir(&plain).unwrap();
        let probe = probe_video(&path).unwrap();
        let cut = cut_video(&path, &probe, &plain).unwrap();
        let converted = frames_of(&cut.defects, DefectKind::Converted);
        assert_eq!(converted, [FrameRange::new(25, 50)], "{name}: {:?}", cut.defects);
        assert_eq!(cut.defects.len(), 1, "{name}: {:?}", cut.defects);
        // The same moments in the first form.
        let same = joined(&clips, "same.mkv", &[&tagged, &tagged, &tagged]);
        let expected = pictures(&same, &crate::support::cut(&same, clips.0.path()));
        let seen = pictures(&path, &cut);
        for (at, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
            assert_eq!(seen.y.len(), expected.y.len(), "{name}: frame {at}");
            for (seen, expected) in [
                (&seen.y, &expected.y),
                (&seen.u, &expected.u),
                (&seen.v, &expected.v),
            ] {
                let apart: u64 = seen
                    .iter()
                    .zip(expected)
                    .map(|(a, b)| u64::from(a.abs_diff(*b)))
                    .sum();
                let mean = apart as f64 / seen.len() as f64;
                assert!(mean < tolerance, "{name}: frame {at} is {mean} off");
            }
        }
    }
}

#[test]
fn a_video_of_which_little_can_be_decoded_is_refused_with_the_time() {
    let coding = "-c:v libx264 -g 25 -crf 10 -bf 0";
    for (name, start, expected) in [
        ("first.mp4", 0.3, "at 1."),
        ("key.mp4", 0.45, "at 1."),
        ("all.mp4", 0.0, "no picture"),
    ] {
        let clips = Clips::new();
        let path = clips.video(name, 100, coding);
        clips.damage(name, start, 1 << 30, 0);
        let out = clips.path("out");
        std::fs::create_dir(&out).unwrap();
        let message = refusal(probe_video(&path).and_then(|probe| cut_video(&path, &probe, &out)));
        assert!(
            message.contains(expected) && message.contains(name),
            "{name}: {message}"
        );
        assert!(message.contains("again"), "{name}: {message}");
    }
}

#[test]
fn an_encrypted_video_is_refused_as_such() {
    let clips = Clips::new();
    clips.video("clear.mp4", 50, "-c:v libx264 -g 25");
    let key = "76a6c65c5ea762046bd749a2e632ccbb";
    let scheme = format!("-encryption_scheme cenc-aes-ctr -encryption_key {key} -encryption_kid {key}");
    let path = clips.make("film.mp4", &format!("-i IN:clear.mp4 -c copy {scheme}"));
    let out = clips.path("out");
    std::fs::create_dir(&out).unwrap();
    let message = refusal(probe_video(&path).and_then(|probe| cut_video(&path, &probe, &out)));
    assert!(message.contains("encrypted"), "{message}");
}
