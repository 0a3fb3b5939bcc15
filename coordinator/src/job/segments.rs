//! The segments of a job's source video, as far as the video has been cut. The records come in order, those
//! of an earlier run first; who cuts the video and where makes no difference. The dispatcher keeps one list
//! for each job, and the task that cuts the video keeps one to know what is recorded already.

use latentfarm_common::error::one_line;
use latentfarm_common::wire::job::{CutRecord, SegmentEntry, SegmentRecord, SourceDefect};
use tokio::sync::mpsc;

/// The segments of a job's source video, from its start on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Number of source frames that the job needs.
    needed: u64,
    entries: Vec<SegmentEntry>,
    defects: Vec<SourceDefect>,
    reencoded: usize,
    is_complete: bool,
    failure: Option<String>,
    /// The last error of whoever cuts the video, while that waits for room in the farm's storage.
    full_storage: Option<String>,
}

/// A record that does not continue those before it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadSegments {
    #[error("the segments of the video do not cover source frame {0}")]
    Gap(u64),
    #[error("there is a record after the end of the video")]
    PastEnd,
}

/// What a job learns about its source video while that is cut.
#[derive(Clone, Debug)]
pub enum VideoNews {
    /// This record is stored, and so is the blob that it names.
    Recorded(CutRecord),
    /// The next segment cannot be stored yet, because the farm's storage is full.
    StorageFull { error: String },
    /// The video cannot be cut to its end, so the job cannot be completed.
    Failed { reason: String },
}

impl Segments {
    /// The segments of a job that needs these many source frames, before the first record.
    pub fn new(needed: u64) -> Self {
        Self {
            needed,
            entries: Vec::new(),
            defects: Vec::new(),
            reencoded: 0,
            is_complete: false,
            failure: None,
            full_storage: None,
        }
    }

    /// Takes what is new. A record that does not continue those before it is a failure too.
    pub fn on_news(&mut self, news: &VideoNews) {
        self.full_storage = None;
        let failure = match news {
            VideoNews::Recorded(record) => self.add(record).err().map(|error| one_line(&error)),
            VideoNews::StorageFull { error } => {
                self.full_storage = Some(error.clone());
                None
            }
            VideoNews::Failed { reason } => Some(reason.clone()),
        };
        self.failure = self.failure.take().or(failure);
    }

    /// Takes the next record.
    pub fn add(&mut self, record: &CutRecord) -> Result<(), BadSegments> {
        let covered = self.covered();
        if self.is_complete {
            return Err(BadSegments::PastEnd);
        }
        let segment = match record {
            CutRecord::End if covered < self.needed => return Err(BadSegments::Gap(covered)),
            CutRecord::End => {
                self.is_complete = true;
                return Ok(());
            }
            CutRecord::Segment(segment) => segment,
        };
        if covered >= self.needed {
            return Err(BadSegments::PastEnd);
        }
        let SegmentEntry { blob, first, frames } = segment.entry;
        if first != covered || frames == 0 {
            return Err(BadSegments::Gap(covered));
        }
        // The last one may hold frames that another job needs.
        let frames = frames.min(self.needed - first);
        self.entries.push(SegmentEntry { blob, first, frames });
        self.reencoded += usize::from(segment.reencoded);
        let is_needed = |defect: &&SourceDefect| defect.frames.start < self.needed;
        let defects: Vec<SourceDefect> = segment.defects.iter().filter(is_needed).copied().collect();
        SourceDefect::append(&mut self.defects, &defects);
        Ok(())
    }

    /// The number of source frames, from the first on, that the segments hold.
    pub fn covered(&self) -> u64 {
        self.entries.last().map_or(0, |last| last.first + last.frames)
    }

    /// The number of source frames that the job needs.
    pub fn needed(&self) -> u64 {
        self.needed
    }

    /// Whether the video has been cut and checked to its end.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The error with which the farm's storage refuses the next segment, if it does.
    pub fn full_storage(&self) -> Option<&str> {
        self.full_storage.as_deref()
    }

    /// Why the video cannot be cut to its end, if it cannot.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The segments in order.
    pub fn entries(&self) -> &[SegmentEntry] {
        &self.entries
    }

    /// The stretches of the video so far that are not shown as the file has them, in order.
    pub fn defects(&self) -> &[SourceDefect] {
        &self.defects
    }

    /// The number of segments that were re-encoded because the video has no keyframe where they begin.
    pub fn reencoded(&self) -> usize {
        self.reencoded
    }
}

/// Returns the news of a video that has been cut completely.
pub fn whole_video(segments: impl IntoIterator<Item = SegmentRecord>) -> mpsc::UnboundedReceiver<VideoNews> {
    let (sender, news) = mpsc::unbounded_channel();
    let records = segments.into_iter().map(CutRecord::Segment);
    for record in records.chain([CutRecord::End]) {
        // The receiver is here.
        let _sent = sender.send(VideoNews::Recorded(record));
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::test_support::segment;
    use latentfarm_common::time::FrameRange;
    use latentfarm_common::wire::job::DefectKind;

    #[test]
    fn records_that_do_not_join_without_gap_are_refused() {
        let mut segments = Segments::new(40);
        segments.add(&segment(0, 32)).unwrap();
        for (record, expected) in [
            (segment(0, 32), BadSegments::Gap(32)),
            (segment(33, 7), BadSegments::Gap(32)),
            (segment(32, 0), BadSegments::Gap(32)),
            (CutRecord::End, BadSegments::Gap(32)),
        ] {
            assert_eq!(segments.add(&record), Err(expected));
        }
        assert_eq!((segments.covered(), segments.is_complete()), (32, false));
        segments.add(&segment(32, 9)).unwrap();
        assert_eq!(
            segments.covered(),
            40,
            "the segment holds a frame more than the job needs"
        );
        assert!(!segments.is_complete(), "the end has not been recorded");
        assert_eq!(segments.add(&segment(40, 1)), Err(BadSegments::PastEnd));
        segments.add(&CutRecord::End).unwrap();
        assert!(segments.is_complete());
        for late in [segment(40, 1), CutRecord::End] {
            assert_eq!(segments.add(&late), Err(BadSegments::PastEnd));
        }
        assert_eq!(segments.entries().len(), 2);
    }

    #[test]
    fn storage_is_full_until_the_next_segment_is_stored() {
        let mut segments = Segments::new(64);
        let error = "maximum bytes exceeded".to_owned();
        segments.on_news(&VideoNews::StorageFull { error });
        assert_eq!(segments.full_storage(), Some("maximum bytes exceeded"));
        assert_eq!(segments.failure(), None, "it may pass");
        segments.on_news(&VideoNews::Recorded(segment(0, 32)));
        assert_eq!((segments.full_storage(), segments.covered()), (None, 32));
    }

    #[test]
    fn a_defect_that_goes_on_over_a_bound_is_one() {
        let mut segments = Segments::new(64);
        for (first, start, end) in [(0, 30, 32), (32, 32, 33)] {
            let CutRecord::Segment(mut record) = segment(first, 32) else {
                panic!("it is a segment")
            };
            record.reencoded = first == 0;
            record.defects = vec![SourceDefect {
                kind: DefectKind::Repeated,
                frames: FrameRange::new(start, end),
                start_ms: start * 40,
                end_ms: end * 40,
            }];
            segments.add(&CutRecord::Segment(record)).unwrap();
        }
        assert_eq!(segments.reencoded(), 1);
        let found: Vec<_> = segments
            .defects()
            .iter()
            .map(|defect| (defect.frames, defect.start_ms, defect.end_ms))
            .collect();
        assert_eq!(found, [(FrameRange::new(30, 33), 1200, 1320)]);
    }
}
