//! Memory requirements as the model's cost predicts them, corrected by what tasks were observed to use. The
//! coordinator corrects them for each kind of device before it places chunks; a worker corrects its own
//! before it chooses a plan.
//!
//! A success measures the requirement of its plan; running out of memory is a lower bound of it. Both are
//! kept for each kind of device *and* for each set of weights, resolution and guidance, so that figures of
//! different shapes are never mixed.
//!
//! The correction is one factor for all plans, so that a plan that was never tried profits from those that
//! were, and then the bounds:
//! - The usual ratio of measured to predicted is the largest one, but no more than [`OUTLIER`] times the
//!   median, so that an engine that leaked once does not decide.
//! - A prediction below the measured is raised to it. One above it is lowered to the measured plus a slack,
//!   which is [`FIRST_SLACK`] after one measurement and narrows with their number to [`LAST_SLACK`].
//! - A requirement is above every lower bound of its plan and of leaner ones by [`BOUND_STEP`]. A measurement
//!   that such a bound contradicts does not count; [`add_observation`] removes bounds that measurements keep
//!   contradicting.
//!
//! A correction of less than [`DEAD_BAND`] is not made. Correcting again by the same observations changes
//! nothing.

use crate::wire::memory::{MemoryObservation, MemoryPlan, MemoryRequirements, ObservedNeed};

/// A measurement counts for at most this many times the median.
pub const OUTLIER: f64 = 1.5;
/// How far above a single measurement a prediction may stay, as a share.
pub const FIRST_SLACK: f64 = 0.3;
/// How far above many measurements a prediction may stay, as a share.
pub const LAST_SLACK: f64 = 0.03;
/// How far above a lower bound a requirement is at least, as a share.
pub const BOUND_STEP: f64 = 0.05;
/// Corrections of less than this share are not made.
pub const DEAD_BAND: f64 = 0.01;
/// Number of the newest measurements that are kept, and of the newest lower bounds.
pub const KEPT: usize = 16;
/// Number of contradicting measurements after which a lower bound is removed.
const CONTRADICTIONS: usize = 3;

/// Adds the newest observation and removes those that no longer count. The number that is kept is bounded.
pub fn add_observation(learned: &mut Vec<MemoryObservation>, new: MemoryObservation) {
    learned.push(new);
    let kept = learned.clone();
    let mut index = 0;
    learned.retain(|observation| {
        let later = &kept[index + 1..];
        index += 1;
        let alike = |other: &&MemoryObservation| is_peak(**other) == is_peak(*observation);
        later.iter().filter(alike).count() < KEPT && !is_outweighed(*observation, later)
    });
}

fn is_peak(observation: MemoryObservation) -> bool {
    matches!(observation.need, ObservedNeed::Peak(_))
}

/// Whether later successes of the same plan or faster ones contradict this bound, as they used less.
fn is_outweighed(bound: MemoryObservation, later: &[MemoryObservation]) -> bool {
    let ObservedNeed::MoreThan(least) = bound.need else {
        return false;
    };
    let contradicts = |other: &&MemoryObservation| match other.need {
        ObservedNeed::Peak(mib) => other.plan <= bound.plan && mib <= least,
        ObservedNeed::MoreThan(_) => false,
    };
    later.iter().filter(contradicts).count() >= CONTRADICTIONS
}

/// Returns the leanest plan that requires as much as `plan`: on some devices several plans are the same.
pub fn same_need(predicted: &MemoryRequirements, plan: MemoryPlan) -> MemoryPlan {
    let same = MemoryPlan::ALL
        .into_iter()
        .filter(|other| predicted.of(*other) == predicted.of(plan));
    same.max().unwrap_or(plan).max(plan)
}

/// Corrects the requirements by the observations of the same kind of device and the same shapes. In the
/// result a later plan never requires more than an earlier one. Without observations it is the prediction.
pub fn corrected(predicted: &MemoryRequirements, learned: &[MemoryObservation]) -> MemoryRequirements {
    let predicted = never_growing(*predicted);
    let floors = floors(learned);
    let ratios = ratios(&predicted, &floors, learned);
    let factor = factor(
        &ratios,
        predicted.leanest().max(floors[MemoryPlan::LEANEST.index()]),
    );
    let mut needs = predicted;
    for (mib, floor) in needs.mib.iter_mut().zip(floors) {
        *mib = scaled(*mib, factor).max(floor);
    }
    needs
}

fn never_growing(needs: MemoryRequirements) -> MemoryRequirements {
    let mut needs = needs;
    for index in (0..MemoryPlan::COUNT - 1).rev() {
        needs.mib[index] = needs.mib[index].max(needs.mib[index + 1]);
    }
    needs
}

/// Returns the least that each plan may require: more than its own lower bounds and those of leaner plans.
fn floors(learned: &[MemoryObservation]) -> [u64; MemoryPlan::COUNT] {
    let mut floors = [0; MemoryPlan::COUNT];
    for observation in learned {
        if let ObservedNeed::MoreThan(mib) = observation.need {
            let least = scaled(mib, 1.0 + BOUND_STEP).max(mib.saturating_add(1));
            for floor in &mut floors[..=observation.plan.index()] {
                *floor = least.max(*floor);
            }
        }
    }
    floors
}

/// Returns the ratios of measured to predicted, smallest first, of the measurements that no bound
/// contradicts.
fn ratios(
    predicted: &MemoryRequirements,
    floors: &[u64; MemoryPlan::COUNT],
    learned: &[MemoryObservation],
) -> Vec<f64> {
    let mut ratios: Vec<f64> = learned
        .iter()
        .filter_map(|observation| {
            let (need, floor) = (predicted.of(observation.plan), floors[observation.plan.index()]);
            match observation.need {
                ObservedNeed::Peak(mib) if mib > 0 && mib >= floor && need > 0 => {
                    Some(mib as f64 / need as f64)
                }
                _ => None,
            }
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

/// Returns the factor of all predictions: the one nearest to 1 between the usual ratio and that ratio plus
/// the slack. `least` is the smallest requirement, in MiB.
fn factor(ratios: &[f64], least: u64) -> f64 {
    let (Some(median), Some(largest)) = (ratios.get((ratios.len().max(1) - 1) / 2), ratios.last()) else {
        return 1.0;
    };
    let usual = largest.min(OUTLIER * median);
    let slack = (FIRST_SLACK / ratios.len() as f64).max(LAST_SLACK);
    let factor = 1.0_f64.clamp(usual, usual * (1.0 + slack));
    // Requirements are whole MiB, and rounding a small one changes it by more than a hundredth.
    let rounding = 2.0 / least.max(1) as f64;
    if (factor - 1.0).abs() <= DEAD_BAND.max(rounding) {
        1.0
    } else {
        factor
    }
}

/// Multiplies a requirement by a factor and rounds up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the product of MiB and a positive factor; a cast saturates at the largest number"
)]
fn scaled(mib: u64, factor: f64) -> u64 {
    if factor.total_cmp(&1.0).is_eq() {
        return mib;
    }
    (mib as f64 * factor).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREDICTED: MemoryRequirements = MemoryRequirements {
        mib: [9000, 7000, 5000, 5000, 3500, 2000],
    };

    fn peak(plan: MemoryPlan, mib: u64) -> MemoryObservation {
        MemoryObservation {
            plan,
            need: ObservedNeed::Peak(mib),
        }
    }

    fn more_than(plan: MemoryPlan, mib: u64) -> MemoryObservation {
        MemoryObservation {
            plan,
            need: ObservedNeed::MoreThan(mib),
        }
    }

    #[test]
    fn with_nothing_learned_the_prediction_stands() {
        assert_eq!(corrected(&PREDICTED, &[]), PREDICTED);
    }

    #[test]
    fn one_measurement_above_the_prediction_raises_all_plans_at_once() {
        let needs = corrected(&PREDICTED, &[peak(MemoryPlan::Sliced, 6000)]);
        assert_eq!(needs.mib, [10_800, 8400, 6000, 6000, 4200, 2400]);
    }

    #[test]
    fn measurements_below_the_prediction_lower_it_the_further_the_more_there_are() {
        let after = |count| {
            corrected(&PREDICTED, &vec![peak(MemoryPlan::Sliced, 2500); count]).of(MemoryPlan::Sliced)
        };
        assert_eq!(after(1), 3250);
        assert_eq!(after(2), 2875);
        assert_eq!(after(100), 2575);
    }

    #[test]
    fn a_lower_bound_raises_its_plan_and_faster_ones_alone() {
        let needs = corrected(&PREDICTED, &[more_than(MemoryPlan::Sliced, 8000)]);
        assert_eq!(needs.mib, [9000, 8400, 8400, 5000, 3500, 2000]);
        assert_eq!(
            needs.next_leaner(MemoryPlan::Sliced),
            Some(MemoryPlan::TwoPassNorm)
        );
    }

    #[test]
    fn one_leaking_engine_does_not_speak_for_all() {
        let mut learned = vec![peak(MemoryPlan::Sliced, 5000); 5];
        learned.push(peak(MemoryPlan::Sliced, 50_000));
        assert_eq!(corrected(&PREDICTED, &learned).of(MemoryPlan::Sliced), 7500);
    }

    #[test]
    fn a_bound_that_later_successes_keep_contradicting_is_forgotten() {
        let mut learned = Vec::new();
        add_observation(&mut learned, more_than(MemoryPlan::Sliced, 8000));
        add_observation(&mut learned, peak(MemoryPlan::Sliced, 5000));
        add_observation(&mut learned, peak(MemoryPlan::Offload, 4000));
        add_observation(&mut learned, peak(MemoryPlan::SequentialGuidance, 7900));
        assert!(corrected(&PREDICTED, &learned).of(MemoryPlan::Sliced) > 8000);
        add_observation(&mut learned, peak(MemoryPlan::Sliced, 5000));
        assert!(!learned.contains(&more_than(MemoryPlan::Sliced, 8000)));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest() {
        let mut learned = Vec::new();
        for mib in 1..=100 {
            add_observation(&mut learned, peak(MemoryPlan::Sliced, mib));
            add_observation(&mut learned, more_than(MemoryPlan::Streamed, mib));
        }
        assert_eq!(learned.len(), 2 * KEPT);
        assert_eq!(learned.last(), Some(&more_than(MemoryPlan::Streamed, 100)));
        assert_eq!(learned.first(), Some(&peak(MemoryPlan::Sliced, 85)));
    }

    fn plan() -> impl Strategy<Value = MemoryPlan> {
        (0..MemoryPlan::COUNT).prop_map(|index| MemoryPlan::ALL[index])
    }

    fn observation() -> impl Strategy<Value = MemoryObservation> {
        let seen = prop_oneof![
            3 => (1_u64..200_000).prop_map(ObservedNeed::Peak),
            1 => (1_u64..200_000).prop_map(ObservedNeed::MoreThan),
        ];
        (plan(), seen).prop_map(|(plan, need)| MemoryObservation { plan, need })
    }

    fn predicted() -> impl Strategy<Value = MemoryRequirements> {
        proptest::array::uniform6(1_u64..100_000).prop_map(|mut mib| {
            mib.sort_unstable_by(|a, b| b.cmp(a));
            MemoryRequirements { mib }
        })
    }

    proptest! {
        #[test]
        fn needs_never_grow_along_the_ladder(
            needs in predicted(), learned in proptest::collection::vec(observation(), 0..12)
        ) {
            let needs = corrected(&needs, &learned);
            prop_assert!(needs.mib.windows(2).all(|pair| pair[0] >= pair[1]), "{needs:?}");
        }

        #[test]
        fn correcting_again_changes_nothing(
            needs in predicted(), learned in proptest::collection::vec(observation(), 0..12)
        ) {
            let once = corrected(&needs, &learned);
            prop_assert_eq!(corrected(&once, &learned), once);
        }

        #[test]
        fn every_lower_bound_is_respected(
            needs in predicted(), learned in proptest::collection::vec(observation(), 0..12)
        ) {
            let needs = corrected(&needs, &learned);
            for observation in &learned {
                if let ObservedNeed::MoreThan(mib) = observation.need {
                    prop_assert!(needs.of(observation.plan) > mib);
                }
            }
        }

        #[test]
        fn no_need_is_below_a_usual_measurement_by_more_than_the_dead_band(
            needs in predicted(), plan in plan(), usual in 1000_u64..100_000,
            shares in proptest::collection::vec(0.9_f64..1.1, 1..10)
        ) {
            prop_assume!(needs.leanest() > 0);
            let learned: Vec<MemoryObservation> =
                shares.iter().map(|share| peak(plan, scaled(usual, *share))).collect();
            let needs = corrected(&needs, &learned);
            for observation in &learned {
                let ObservedNeed::Peak(mib) = observation.need else { continue };
                let band = DEAD_BAND.max(2.0 / needs.leanest().max(1) as f64);
                prop_assert!(needs.of(plan) as f64 >= mib as f64 * (1.0 - 2.0 * band), "{needs:?}");
            }
        }

        #[test]
        fn notes_are_bounded(learned in proptest::collection::vec(observation(), 0..200)) {
            let mut kept = Vec::new();
            for observation in learned {
                add_observation(&mut kept, observation);
            }
            prop_assert!(kept.len() <= 2 * KEPT);
        }
    }
}
