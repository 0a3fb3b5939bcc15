//! Divides the packets of a source video into the pieces that become segments. It is a pure function of the
//! safe cuts.

use std::ops::Range;

use super::index::Cut;

/// Bounds of the length of segments, in source frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutLimits {
    /// Whole groups of pictures are joined up to this length; re-encoded parts have this length. At least 1.
    pub target_frames: u64,
    /// A single group of pictures may have this length; a longer one is re-encoded in parts.
    pub max_frames: u64,
}

/// A stretch of packets between two safe cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Numbers of the packets in decode order.
    pub(super) packets: Range<u64>,
    /// Numbers of the source frames.
    pub(super) shown: Range<u64>,
    /// Whether the piece is too long to be one segment, and has to be re-encoded in parts.
    pub(super) reencode: bool,
}

/// Divides a track of `packets` packets and `shown` source frames into pieces. The pieces join without gap
/// and hold at least one source frame each; those that hold none of the first `wanted` frames are left out.
pub(super) fn split(cuts: &[Cut], packets: u64, shown: u64, wanted: u64, limits: CutLimits) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let point = |at: usize| {
        cuts.get(at)
            .map_or((packets, shown), |cut| (cut.packet, cut.shown))
    };
    let mut at = 0;
    while at < cuts.len() {
        let (first_packet, first_shown) = point(at);
        let mut next = at + 1;
        // Join whole groups of pictures while the target allows it, up to the next forced cut.
        while next < cuts.len()
            && !cuts[next].forced
            && point(next + 1).1 - first_shown <= limits.target_frames
        {
            next += 1;
        }
        let (end_packet, end_shown) = point(next);
        at = next;
        if end_shown == first_shown {
            continue;
        }
        if first_shown >= wanted {
            break;
        }
        pieces.push(Piece {
            packets: first_packet..end_packet,
            shown: first_shown..end_shown,
            reencode: end_shown - first_shown > limits.max_frames,
        });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: CutLimits = CutLimits {
        target_frames: 128,
        max_frames: 320,
    };

    fn cut(packet: u64, shown: u64) -> Cut {
        Cut::plain(packet, shown, packet == 0)
    }

    #[test]
    fn short_groups_are_gathered_up_to_the_target() {
        let cuts: Vec<Cut> = (0..10).map(|i| cut(50 * i, 50 * i)).collect();
        let pieces = split(&cuts, 500, 500, 500, LIMITS);
        let bounds: Vec<u64> = pieces.iter().map(|piece| piece.shown.end).collect();
        assert_eq!(bounds, [100, 200, 300, 400, 500]);
        assert!(pieces.iter().all(|piece| !piece.reencode));
    }

    #[test]
    fn long_group_is_reencoded_and_its_neighbours_are_not() {
        let pieces = split(
            &[cut(0, 0), cut(100, 100), cut(900, 900)],
            1000,
            1000,
            1000,
            LIMITS,
        );
        let reencode: Vec<bool> = pieces.iter().map(|piece| piece.reencode).collect();
        assert_eq!(reencode, [false, true, false]);
    }

    #[test]
    fn frames_that_are_not_wanted_are_left_out() {
        let cuts: Vec<Cut> = (0..10).map(|i| cut(100 * i, 100 * i)).collect();
        let pieces = split(&cuts, 1000, 1000, 201, LIMITS);
        assert_eq!(pieces.last().unwrap().shown, 200..300);
    }

    proptest! {
        #[test]
        fn pieces_join_without_gap(
            groups in prop::collection::vec((1_u64..400, 0_u64..3, any::<bool>()), 1..40),
            target in 1_u64..300,
            slack in 0_u64..300,
        ) {
            let mut cuts = Vec::new();
            let (mut packets, mut shown) = (0, 0);
            for (frames, hidden, forced) in groups {
                cuts.push(Cut::plain(packets, shown, forced || packets == 0));
                packets += frames + hidden;
                shown += frames;
            }
            let limits = CutLimits { target_frames: target, max_frames: target + slack };
            let pieces = split(&cuts, packets, shown, shown, limits);
            let mut next = 0;
            for piece in &pieces {
                prop_assert_eq!(piece.shown.start, next);
                prop_assert!(piece.shown.end > next);
                prop_assert_eq!(piece.reencode, piece.shown.end - next > limits.max_frames);
                prop_assert!(cuts.iter().any(|cut| cut.packet == piece.packets.start));
                let inside = cuts.iter().filter(|cut| cut.forced && cut.packet > piece.packets.start);
                prop_assert!(inside.clone().all(|cut| cut.packet >= piece.packets.end));
                next = piece.shown.end;
            }
            prop_assert_eq!(next, shown);
            prop_assert_eq!(pieces.last().map(|piece| piece.packets.end), Some(packets));
        }
    }
}
