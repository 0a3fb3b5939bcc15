//! Tests of the cut that runs beside the rendering.

use std::io;

use latentfarm_common::error::one_line;
use latentfarm_common::wire::job::SegmentRecord;

use super::tests::{MemoryStore, cut, request};
use super::{SourceVideo, examine};

/// Cuts a video of which an earlier run has recorded so many frames, and returns what is recorded now.
fn cut_from(recorded: u64, video: &SourceVideo, store: &mut MemoryStore) -> Vec<SegmentRecord> {
    let mut records = Vec::new();
    let mut keep = |record| {
        records.push(record);
        Ok(())
    };
    video.cut(recorded, &|| Ok(()), store, &mut keep).unwrap();
    records
}

#[test]
fn a_video_that_changes_before_it_is_cut_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = request(dir.path(), 30, 1.0);
    let mut store = MemoryStore::default();
    let (ingested, video) = examine(&good).unwrap().store(&mut store).unwrap();
    let bytes = std::fs::read(&good.video).unwrap();
    std::fs::write(&good.video, bytes).unwrap();
    let before = store.0.len();
    let error = cut(&video, &ingested, &mut store).unwrap_err();
    assert!(
        error.is_bad_input() && one_line(&error).contains("v.mp4` was changed"),
        "{}",
        one_line(&error)
    );
    assert_eq!(store.0.len(), before, "nothing of it is stored");
}

#[test]
fn a_video_that_changes_while_it_is_cut_ends_the_cut_with_the_next_segment() {
    let dir = tempfile::tempdir().unwrap();
    let good = request(dir.path(), 300, 10.0);
    let mut store = MemoryStore::default();
    let (_ingested, video) = examine(&good).unwrap().store(&mut store).unwrap();
    let mut recorded = 0;
    let ended = video.cut(0, &|| Ok(()), &mut store, &mut |_| {
        recorded += 1;
        let whole = std::fs::read(&good.video).unwrap();
        // Half of it is damaged: the cause is the change and not the damage.
        std::fs::write(&good.video, &whole[..whole.len() / 2])
    });
    let error = ended.unwrap_err();
    let text = one_line(&error);
    assert!(
        error.is_bad_input() && text.contains("v.mp4` was changed"),
        "{text}"
    );
    assert_eq!(recorded, 1, "no segment is recorded after the change");
    assert_eq!(std::fs::read_dir(&good.scratch).unwrap().count(), 0);
}

#[test]
fn segments_of_an_earlier_run_are_not_recorded_again_and_the_others_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path(), 90, 3.0);
    let whole = std::fs::read(&request.video).unwrap();
    let middle = whole.len() / 2;
    let damaged = [&whole[..middle], &[0; 600], &whole[middle + 600..]].concat();
    std::fs::write(&request.video, damaged).unwrap();
    let mut store = MemoryStore::default();
    let (_ingested, video) = examine(&request).unwrap().store(&mut store).unwrap();
    let mut from = |recorded| cut_from(recorded, &video, &mut store);
    let all = from(0);
    assert!(all.len() > 2, "{all:?}");
    let first = all[0].entry.frames;
    assert_eq!(from(first), all[1..]);
    assert_eq!(from(90), []);
}

#[test]
fn a_last_segment_that_goes_on_behind_the_frames_of_the_job_is_not_recorded_twice() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path(), 90, 3.0);
    let mut store = MemoryStore::default();
    let mut examined = examine(&request).unwrap();
    (examined.table.sources, examined.cut_frames) = (30, 30);
    let video = examined.into_video();
    let mut from = |recorded| cut_from(recorded, &video, &mut store);
    let all = from(0);
    let last = &all.last().unwrap().entry;
    assert!(last.first < 30 && last.first + last.frames > 30, "{all:?}");
    // An earlier run has recorded all segments, and was interrupted before it recorded the end of the video.
    assert_eq!(from(30), []);
}

#[test]
fn the_segments_of_a_job_that_shows_less_are_the_first_ones_of_a_job_that_shows_more() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path(), 90, 3.0);
    let whole = std::fs::read(&request.video).unwrap();
    // Damage that lies in the last segment of the shorter job, behind the frames that it shows.
    let damage = whole.len() * 45 / 100;
    let damaged = [&whole[..damage], &[0; 300], &whole[damage + 300..]].concat();
    let mut store = MemoryStore::default();
    for (bytes, has_defects) in [(whole, false), (damaged, true)] {
        std::fs::write(&request.video, bytes).unwrap();
        let mut records = |sources: u64, shares: bool| {
            let mut examined = examine(&request).unwrap();
            (examined.table.sources, examined.cut_frames) = (sources, sources);
            if shares {
                examined.share_video();
            }
            cut_from(0, &examined.into_video(), &mut store)
        };
        let (all, less) = (records(90, false), records(30, false));
        assert_eq!(less.len(), 2, "{less:#?}");
        assert_eq!(less, all[..2]);
        assert_eq!(!less[1].defects.is_empty(), has_defects, "{less:#?}");
        assert_eq!(records(45, true), all, "half of the video is shown");
        assert_eq!(records(44, true), all[..2], "the rest is not likely to be used");
    }
}

#[test]
fn a_cut_that_is_not_wanted_any_more_ends_between_two_packets() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(dir.path(), 90, 3.0);
    // The whole video is one stretch to re-encode.
    request.limits.max_frames = 1;
    let mut store = MemoryStore::default();
    let (_ingested, video) = examine(&request).unwrap().store(&mut store).unwrap();
    let packets = std::cell::Cell::new(0);
    let keep_on = || {
        packets.set(packets.get() + 1);
        if packets.get() > 10 {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            Ok(())
        }
    };
    let ended = video.cut(0, &keep_on, &mut store, &mut |record| panic!("{record:?}"));
    let error = ended.unwrap_err();
    assert!(!error.is_bad_input(), "{error:?}");
    assert_eq!(packets.get(), 11);
    assert_eq!(std::fs::read_dir(&request.scratch).unwrap().count(), 0);
}
