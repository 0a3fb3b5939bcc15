use super::*;
use crate::media::test_clips::{encode, format, spec};

fn segment(dir: &Path, range: FrameRange) -> std::path::PathBuf {
    let path = dir.join("segment.nut");
    encode(&path, &format(), &spec("25", Some(20)), range);
    path
}

#[test]
fn segment_of_other_frames_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = segment(dir.path(), FrameRange::new(16, 48));
    assert_eq!(verify_segment(&path, FrameRange::new(16, 48)).unwrap().frames, 32);
    for wrong in [(0, 32), (16, 47), (16, 49), (15, 47)] {
        let refused = verify_segment(&path, FrameRange::new(wrong.0, wrong.1));
        assert!(matches!(refused, Err(MediaError::Rejected { .. })), "{wrong:?}");
    }
}

#[test]
fn damaged_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let range = FrameRange::new(0, 64);
    let path = segment(dir.path(), range);
    let sound = std::fs::read(&path).unwrap();

    let mut holed = sound.clone();
    let quarter = holed.len() / 4;
    holed[quarter..2 * quarter].fill(0);
    std::fs::write(&path, holed).unwrap();
    assert!(verify_segment(&path, range).is_err(), "a hole went unseen");

    std::fs::write(&path, &sound[..sound.len() * 2 / 3]).unwrap();
    assert!(verify_segment(&path, range).is_err(), "a short file went unseen");

    for nothing in [&b""[..], b"not a video"] {
        std::fs::write(&path, nothing).unwrap();
        assert!(verify_segment(&path, range).is_err());
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(verify_segment(&path, range), Err(MediaError::Io { .. })));
}
