use proptest::prelude::*;

use super::*;

fn workers(names: &[&str]) -> BTreeSet<WorkerId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn failures(attempts: &[(&str, bool)]) -> Failures {
    let mut failures = Failures::default();
    for (name, is_bad_input) in attempts {
        let reason = if *is_bad_input {
            "bad input: x"
        } else {
            "the link went down"
        };
        failures.add(&name.parse().unwrap(), reason, *is_bad_input);
    }
    failures
}

fn verdict(attempts: &[(&str, bool)], able: &[&str], out: &[&str]) -> Option<String> {
    let out = workers(out);
    failures(attempts).verdict(&workers(able), |worker| out.contains(worker))
}

const W1: (&str, bool) = ("w1", false);
const W2: (&str, bool) = ("w2", false);
const W3: (&str, bool) = ("w3", false);
const BAD1: (&str, bool) = ("w1", true);
const BAD2: (&str, bool) = ("w2", true);

#[test]
fn a_chunk_is_given_up_after_two_failures_on_each_of_three_workers_or_of_all_that_can_run_it() {
    assert_eq!(verdict(&[W1], &["w1"], &[]), None);
    assert_eq!(
        verdict(&[W1, W1], &["w1"], &[]).unwrap(),
        "gave up after 2 failed attempts (on w1); the last one: the link went down"
    );
    assert_eq!(verdict(&[W1, W1, W1, W1], &["w1", "w2"], &[]), None);
    assert_eq!(verdict(&[W1, W1, W2], &["w1", "w2"], &[]), None);
    assert!(verdict(&[W1, W1, W2, W2], &["w1", "w2"], &[]).is_some());
    let four = ["w1", "w2", "w3", "w4"];
    assert_eq!(verdict(&[W1, W1, W2, W2, W3], &four, &[]), None);
    assert!(verdict(&[W1, W1, W2, W2, W3, W3], &four, &[]).is_some());
}

#[test]
fn the_failures_of_workers_that_are_out_or_gone_prove_nothing_to_the_others() {
    assert_eq!(verdict(&[W1, W1], &["w2"], &[]), None, "w1 has left");
    assert_eq!(verdict(&[W1, W1, W2, W2], &["w2", "w3"], &[]), None);
    assert_eq!(verdict(&[W1, W1], &[], &[]), None, "nobody can run it now");
    assert_eq!(verdict(&[W1, W1], &["w2"], &["w1"]), None, "w1 is set aside");
    let all = ["w1", "w2", "w3", "w4"];
    assert_eq!(verdict(&[W1, W1, W2, W2, W3, W3], &all[1..], &["w1"]), None);
}

#[test]
fn bad_input_needs_a_second_witness_if_there_is_one() {
    assert_eq!(verdict(&[BAD1], &["w1"], &[]).unwrap(), "bad input: x");
    assert_eq!(verdict(&[BAD1, BAD1, BAD1], &["w1", "w2"], &[]), None);
    assert_eq!(verdict(&[BAD1, W2], &["w1", "w2"], &[]), None);
    assert_eq!(
        verdict(&[BAD1, BAD2], &["w1", "w2", "w3"], &[]).unwrap(),
        "bad input: x"
    );
}

#[test]
fn workers_that_come_and_go_end_after_a_bounded_number_of_attempts() {
    let mut failures = Failures::default();
    for number in 0..MOST_FAILURES {
        assert_eq!(failures.verdict(&workers(&["new"]), |_| false), None, "{number}");
        failures.add(&format!("spot-{number}").parse().unwrap(), "gone", false);
    }
    assert!(failures.verdict(&workers(&["new"]), |_| false).is_some());
}

#[test]
fn a_worker_has_tried_a_chunk_that_failed_on_it_twice() {
    let failures = failures(&[W1, W1, W2]);
    let tried = ["w1", "w2", "w3"].map(|name| failures.has_tried(&name.parse().unwrap()));
    assert_eq!(tried, [true, false, false]);
}

proptest! {
    /// Whatever a single worker does, however often it fails and with whatever reports, and whether it stays, leaves
    /// or is set aside: while a healthy worker lives that can run the chunk, the chunk is not given up.
    #[test]
    fn no_single_worker_gives_a_chunk_up_while_a_healthy_one_lives(
        reports in prop::collection::vec(any::<bool>(), 0..200),
        others in prop::collection::vec(any::<bool>(), 3),
        stays: bool,
        is_out: bool,
    ) {
        let mut attempts: Vec<(&str, bool)> = reports.into_iter().map(|bad| ("bad", bad)).collect();
        // Another worker may have failed once, by chance.
        attempts.extend(others[0].then_some(("once", false)));
        let mut able = vec!["healthy"];
        able.extend(stays.then_some("bad"));
        able.extend(others[1].then_some("once"));
        able.extend(others[2].then_some("untried"));
        let out: &[&str] = if is_out { &["bad"] } else { &[] };
        prop_assert_eq!(verdict(&attempts, &able, out), None);
    }
}
