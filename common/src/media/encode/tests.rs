use super::*;
use crate::error::one_line;
use crate::media::test_clips::{encode, format, picture, probe, spec};
use crate::media::{compare_first_pictures, decode_hashes, verify_segment};
use crate::time::FrameRange;

#[test]
fn equal_pictures_give_equal_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for (crf, preset) in [(Some(18), "medium"), (Some(23), "ultrafast"), (None, "veryfast")] {
        let mut spec = spec("25", crf);
        preset.clone_into(&mut spec.preset);
        let (one, two) = (dir.path().join("1.nut"), dir.path().join("2.nut"));
        encode(&one, &format(), &spec, FrameRange::new(32, 112));
        encode(&two, &format(), &spec, FrameRange::new(32, 112));
        assert!(
            std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap(),
            "{preset} differs"
        );
    }
}

#[test]
fn codec_headers_do_not_depend_on_content_length_or_rate_factor() {
    let dir = tempfile::tempdir().unwrap();
    let mut headers = Vec::new();
    for (range, crf) in [(0..96, 18), (96..97, 18), (160..170, 18), (400..440, 30)] {
        let path = dir.path().join("segment.nut");
        let range = FrameRange::new(range.start, range.end);
        encode(&path, &format(), &spec("24000/1001", Some(crf)), range);
        headers.push(verify_segment(&path, range).unwrap().codec_header);
    }
    assert!(!headers[0].is_empty());
    assert!(headers.iter().all(|header| *header == headers[0]));
}

#[test]
fn lossless_segments_decode_to_the_pictures_that_went_in() {
    let dir = tempfile::tempdir().unwrap();
    for (rate, start, end) in [
        ("25", 0, 50),
        ("24000/1001", 48, 49),
        ("30", 1_000_000, 1_000_020),
        ("1", 3, 9),
    ] {
        let path = dir.path().join("segment.nut");
        let went_in = encode(&path, &format(), &spec(rate, None), FrameRange::new(start, end));
        let mut came_out = Vec::new();
        let frames = decode_hashes(&path, &mut |number, hash| came_out.push((number, hash))).unwrap();
        let expected: Vec<_> = (start..end).zip(went_in).collect();
        assert_eq!(frames, end - start);
        assert_eq!(came_out, expected, "rate {rate}");
    }
}

#[test]
fn colour_tags_and_aspect_are_carried() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment.nut");
    let mut full = format();
    full.colour.range = ColourRange::Full;
    full.colour.primaries_tag = 5;
    full.colour.transfer_tag = 6;
    full.colour.matrix_tag = 6;
    full.sample_aspect = (4, 3);
    encode(&path, &full, &spec("25", Some(20)), FrameRange::new(0, 4));
    let tags = probe(
        &path,
        "-select_streams v -show_entries stream=sample_aspect_ratio,color_range,color_space,color_transfer,color_primaries",
    );
    let tags: Vec<&str> = tags.lines().collect();
    assert_eq!(tags, ["4:3", "pc", "smpte170m", "smpte170m", "bt470bg"]);

    let mut unspecified = format();
    unspecified.colour.primaries_tag = 2;
    unspecified.colour.transfer_tag = 2;
    unspecified.colour.matrix_tag = 2;
    encode(&path, &unspecified, &spec("25", Some(20)), FrameRange::new(0, 4));
    let tags = probe(
        &path,
        "-select_streams v -show_entries stream=color_space,color_transfer,color_primaries",
    );
    assert!(tags.lines().all(|tag| tag == "unknown"), "{tags}");
}

#[test]
fn keyframes_stand_on_a_fixed_grid() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment.nut");
    encode(
        &path,
        &format(),
        &spec("24000/1001", Some(20)),
        FrameRange::new(16, 130),
    );
    let flags = probe(&path, "-select_streams v -show_entries frame=key_frame");
    let keyframes: Vec<usize> = (0..)
        .zip(flags.lines())
        .filter(|(_, key)| *key == "1")
        .map(|(i, _)| i)
        .collect();
    assert_eq!(keyframes, [0, 48, 96]);
}

#[test]
fn picture_of_another_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment.nut");
    let mut encoder = SegmentEncoder::create(&path, &format(), &spec("25", None), 0).unwrap();
    let mut wide = format();
    wide.width = 128;
    assert!(encoder.push(&picture(&wide, 0)).is_err());
    let mut short = picture(&format(), 0);
    short.u.pop();
    assert!(encoder.push(&short).is_err());
    assert!(encoder.finish().is_err(), "an empty segment was finished");
}

#[test]
fn the_first_picture_of_a_segment_is_measured_against_that_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let lossy = spec("25", Some(18));
    let path = |name: &str| dir.path().join(name);
    encode(&path("long.nut"), &format(), &lossy, FrameRange::new(32, 80));
    encode(&path("short.nut"), &format(), &lossy, FrameRange::new(32, 48));
    encode(&path("later.nut"), &format(), &lossy, FrameRange::new(33, 48));
    // The same pictures, of which one segment has more: what follows does not change the first one.
    let difference = compare_first_pictures(&path("long.nut"), &path("short.nut")).unwrap();
    assert_eq!((difference.squared_error, difference.largest), (0, 0));
    assert_eq!(difference.psnr_db(), None);
    let other = compare_first_pictures(&path("long.nut"), &path("later.nut"));
    let refused = one_line(&other.unwrap_err());
    assert!(refused.contains("begins with frame 33"), "{refused}");
}
