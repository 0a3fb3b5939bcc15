//! Keeps a job, or each part of it that shows one mouth without a break, to machines of one numeric kind.

use std::collections::BTreeMap;
use std::ops::Range;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::numeric_kind::NumericKind;

use super::job::Job;
use crate::job::chunk::state::Phase;
use crate::job::record::ChunkRecord;
use crate::placement::{OneKind, WorkerCapacity};

/// The render chunks, by index, that only machines of one kind may take; of any kind, if it is `None`.
pub(super) type ChunksByKind = BTreeMap<Option<NumericKind>, Vec<usize>>;

/// Chooses the numeric kind for each of the `unbegun` render chunks of a job. `rates` are the frames that the live
/// machines of each kind that can take the job's chunks render in a second.
///
/// What has been begun on a kind goes on with it, as long as a machine of that kind is there. What has not goes to the
/// kind that is expected to be done with it first.
pub(super) fn choose(
    job: &Job,
    unbegun: &[usize],
    capacities: &[WorkerCapacity],
    rates: &BTreeMap<NumericKind, f64>,
) -> ChunksByKind {
    let Some(one_kind) = job.settings.one_kind.filter(|_| !rates.is_empty()) else {
        return ChunksByKind::from([(None, unbegun.to_vec())]);
    };
    let kind_of = |worker: &WorkerId| {
        let found = capacities.iter().find(|capacity| capacity.worker == *worker);
        found.and_then(|capacity| capacity.kind)
    };
    let mouths = job.mouths();
    let parts = parts(one_kind, &job.chunks.render, |at| mouths.show_border(at));
    let parts = parts.into_iter().map(|part| {
        let chunks = &job.chunks.render[part.clone()];
        let mut begun: BTreeMap<NumericKind, u64> = BTreeMap::new();
        let mut open_frames = 0;
        for chunk in chunks {
            match begun_on(chunk, kind_of) {
                Some(kind) => *begun.entry(kind).or_default() += chunk.range.len(),
                None => open_frames += chunk.range.len(),
            }
        }
        Part {
            chunks: part,
            begun,
            open_frames,
        }
    });
    let parts: Vec<Part> = parts.collect();
    let kinds = assign(&parts, rates);
    let mut chosen = ChunksByKind::new();
    for (part, kind) in parts.iter().zip(kinds) {
        let open = unbegun.iter().filter(|index| part.chunks.contains(index));
        chosen.entry(Some(kind)).or_default().extend(open.copied());
    }
    chosen.retain(|_, chunks| !chunks.is_empty());
    chosen
}

/// Render chunks that belong to one kind.
#[derive(Debug)]
struct Part {
    /// Their indices.
    chunks: Range<usize>,
    /// The frames of those that machines of each kind have done or are running.
    begun: BTreeMap<NumericKind, u64>,
    /// The frames of the others.
    open_frames: u64,
}

/// The kind of the machine that has done a chunk, or runs it.
fn begun_on(chunk: &ChunkRecord, kind_of: impl Fn(&WorkerId) -> Option<NumericKind>) -> Option<NumericKind> {
    match &chunk.state().phase {
        Phase::Done { record, .. } => record.kind,
        Phase::Running { worker } => kind_of(worker),
        Phase::Waiting | Phase::Backlog | Phase::Queued | Phase::Quarantined { .. } => None,
    }
}

/// Divides the chunks of a job, which are in frame order.
fn parts(one_kind: OneKind, chunks: &[ChunkRecord], is_visible: impl Fn(u64) -> bool) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        let goes_on = one_kind == OneKind::Job || is_visible(chunk.range.start);
        match parts.last_mut().filter(|_| goes_on) {
            Some(part) => part.end = index + 1,
            None => parts.push(index..index + 1),
        }
    }
    parts
}

/// Chooses a kind for each part, of those in `rates`, which is not empty.
fn assign(parts: &[Part], rates: &BTreeMap<NumericKind, f64>) -> Vec<NumericKind> {
    let live = |part: &Part| {
        let begun = part.begun.iter().filter(|(kind, _)| rates.contains_key(kind));
        // The first of several with equally many frames, so that the choice stays the same.
        begun
            .rev()
            .max_by_key(|(_, frames)| **frames)
            .map(|(kind, _)| *kind)
    };
    let settled: Vec<Option<NumericKind>> = parts.iter().map(live).collect();
    let mut loads: BTreeMap<NumericKind, u64> = rates.keys().map(|kind| (*kind, 0)).collect();
    for (part, kind) in parts.iter().zip(&settled) {
        if let Some(load) = kind.and_then(|kind| loads.get_mut(&kind)) {
            *load += part.open_frames;
        }
    }
    let chosen = parts.iter().zip(settled).map(|(part, settled)| {
        if let Some(kind) = settled {
            return kind;
        }
        let end = |(kind, load): &(&NumericKind, &mut u64)| (**load + part.open_frames) as f64 / rates[*kind];
        let first = loads
            .iter_mut()
            .min_by(|one, other| end(one).total_cmp(&end(other)));
        let (kind, load) = first.expect("some kind is live");
        *load += part.open_frames;
        *kind
    });
    chosen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
    use latentfarm_common::time::FrameRange;
    use proptest::prelude::*;

    const KINDS: [&str; 3] = ["one", "two", "three"];

    fn kind(index: usize) -> NumericKind {
        NumericKind::of(KINDS[index])
    }

    fn chunks(count: u32) -> Vec<ChunkRecord> {
        let job = JobId::from_digest(&Digest::of(b"job"));
        let work = WorkKind::Render;
        let record = |index| {
            let start = u64::from(index) * 16;
            ChunkRecord::new(ChunkId { job, work, index }, FrameRange::new(start, start + 16))
        };
        (0..count).map(record).collect()
    }

    fn part(chunks: Range<usize>, begun: &[(usize, u64)], open_frames: u64) -> Part {
        Part {
            chunks,
            begun: begun
                .iter()
                .map(|(index, frames)| (kind(*index), *frames))
                .collect(),
            open_frames,
        }
    }

    #[test]
    fn a_shot_is_divided_where_no_border_can_be_seen() {
        let chunks = chunks(5);
        let is_visible = |at| at != 32 && at != 64;
        assert_eq!(parts(OneKind::Shot, &chunks, is_visible), [0..2, 2..4, 4..5]);
        let whole = parts(OneKind::Job, &chunks, is_visible);
        assert_eq!((whole.len(), whole.first()), (1, Some(&(0..5))));
    }

    #[test]
    fn what_is_begun_goes_on_with_its_kind_while_that_is_there() {
        let rates = BTreeMap::from([(kind(0), 1.0), (kind(1), 100.0)]);
        // The third kind has left.
        let parts = [
            part(0..2, &[(0, 16), (2, 160)], 16),
            part(2..4, &[(2, 16)], 16),
            part(4..6, &[], 32),
        ];
        assert_eq!(assign(&parts, &rates), [kind(0), kind(1), kind(1)]);
    }

    #[test]
    fn parts_are_shared_out_by_speed() {
        let rates = BTreeMap::from([(kind(0), 1.0), (kind(1), 3.0)]);
        let parts: Vec<Part> = (0..8).map(|index| part(index..index + 1, &[], 16)).collect();
        let assigned = assign(&parts, &rates);
        assert_eq!(assigned.iter().filter(|chosen| **chosen == kind(1)).count(), 6);
    }

    proptest! {
        #[test]
        fn every_part_has_a_kind_that_is_there_and_keeps_it_once_that_has_begun_more(
            begun in prop::collection::vec(prop::collection::vec((0_usize..3, 1_u64..500), 0..3), 1..12),
            live in prop::collection::btree_map(0_usize..3, 0.01_f64..100.0, 1..4),
        ) {
            let rates: BTreeMap<NumericKind, f64> = live.iter().map(|(index, rate)| (kind(*index), *rate)).collect();
            let mut parts: Vec<Part> = begun
                .iter()
                .enumerate()
                .map(|(index, begun)| part(index..index + 1, begun, 48))
                .collect();
            let first = assign(&parts, &rates);
            prop_assert!(first.iter().all(|chosen| rates.contains_key(chosen)));
            for (part, chosen) in parts.iter_mut().zip(&first) {
                *part.begun.entry(*chosen).or_default() += 16;
                part.open_frames -= 16;
            }
            prop_assert_eq!(assign(&parts, &rates), first);
        }
    }
}
