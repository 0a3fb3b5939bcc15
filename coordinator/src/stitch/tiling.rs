//! Checks that ranges, in the given order, cover every output frame exactly once. The check is pure.

use latentfarm_common::time::FrameRange;

/// The first range that is missing, repeated, empty or out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TilingError {
    #[error("frames {missing} are missing")]
    Gap { missing: FrameRange },
    #[error("frames {again} are repeated or out of order")]
    Overlap { again: FrameRange },
    #[error("the range at frame {at} is empty")]
    Empty { at: u64 },
    #[error("frames {extra} are past the end")]
    PastEnd { extra: FrameRange },
}

/// Returns an error unless `ranges`, one after another, are exactly `0..frames`.
pub fn check_tiling(ranges: &[FrameRange], frames: u64) -> Result<(), TilingError> {
    let mut next = 0;
    for range in ranges {
        if range.is_empty() {
            return Err(TilingError::Empty { at: range.start });
        }
        if range.start > next {
            let missing = FrameRange::new(next, range.start);
            return Err(TilingError::Gap { missing });
        }
        if range.start < next {
            let again = FrameRange::new(range.start, range.end.min(next));
            return Err(TilingError::Overlap { again });
        }
        next = range.end;
    }
    if next < frames {
        let missing = FrameRange::new(next, frames);
        return Err(TilingError::Gap { missing });
    }
    if next > frames {
        let extra = FrameRange::new(frames, next);
        return Err(TilingError::PastEnd { extra });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tiles(lengths: &[u64]) -> Vec<FrameRange> {
        let mut start = 0;
        lengths
            .iter()
            .map(|length| {
                start += length;
                FrameRange::new(start - length, start)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn consecutive_ranges_tile(lengths in prop::collection::vec(1_u64..500, 1..40)) {
            let frames = lengths.iter().sum();
            prop_assert_eq!(check_tiling(&tiles(&lengths), frames), Ok(()));
            prop_assert!(check_tiling(&tiles(&lengths), frames + 1).is_err());
            prop_assert!(check_tiling(&tiles(&lengths), frames - 1).is_err());
        }

        #[test]
        fn any_accepted_list_covers_each_frame_once(
            bounds in prop::collection::vec((0_u64..12, 0_u64..5), 0..6),
            frames in 0_u64..12,
        ) {
            let ranges: Vec<_> = bounds.iter().map(|(start, len)| FrameRange::new(*start, start + len)).collect();
            let covered: Vec<u64> = ranges.iter().flat_map(|range| range.frames()).collect();
            let wanted: Vec<u64> = (0..frames).collect();
            let no_empty = ranges.iter().all(|range| !range.is_empty());
            prop_assert_eq!(check_tiling(&ranges, frames).is_ok(), no_empty && covered == wanted);
        }

        #[test]
        fn missing_doubled_or_swapped_range_is_refused(
            lengths in prop::collection::vec(1_u64..500, 2..40),
            at in any::<prop::sample::Index>(),
        ) {
            let frames = lengths.iter().sum();
            let whole = tiles(&lengths);
            let at = at.index(whole.len());
            let mut missing = whole.clone();
            missing.remove(at);
            prop_assert!(check_tiling(&missing, frames).is_err());
            let mut doubled = whole.clone();
            doubled.insert(at, whole[at]);
            prop_assert!(check_tiling(&doubled, frames).is_err());
            let mut swapped = whole.clone();
            swapped.swap(at, (at + 1) % whole.len());
            prop_assert!(check_tiling(&swapped, frames).is_err());
        }
    }

    #[test]
    fn refusals_name_the_frames() {
        let range = FrameRange::new;
        let cases = [
            (vec![range(0, 16), range(32, 48)], "frames 16..32 are missing"),
            (
                vec![range(0, 16), range(8, 48)],
                "frames 8..16 are repeated or out of order",
            ),
            (vec![range(0, 16), range(16, 40)], "frames 40..48 are missing"),
            (vec![range(0, 64)], "frames 48..64 are past the end"),
            (vec![range(0, 0), range(0, 48)], "the range at frame 0 is empty"),
        ];
        for (ranges, expected) in cases {
            assert_eq!(check_tiling(&ranges, 48).unwrap_err().to_string(), expected);
        }
    }
}
