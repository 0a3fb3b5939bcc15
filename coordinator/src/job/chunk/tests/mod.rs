mod support;

use proptest::prelude::*;

use support::*;

#[test]
fn every_move_is_as_drawn() {
    let give_back = ChunkEvent::Returned { attempt: at(2) };
    let blocked = ChunkEvent::Blocked {
        reason: "no track".to_owned(),
    };
    let moves = [
        (waiting(0), ChunkEvent::Released, backlog(0, NONE)),
        (waiting(0), blocked.clone(), quarantined(0, NONE, "no track")),
        (backlog(1, FAILED), blocked, quarantined(1, FAILED, "no track")),
        (waiting(0), enqueued(2), queued(2)),
        (waiting(0), started(2, "w1"), running(2, "w1")),
        (waiting(0), done_seen(2), done(2)),
        (waiting(0), retracted(2), waiting(3)),
        (backlog(1, NONE), enqueued(1), queued(1)),
        (backlog(1, NONE), started(1, "w1"), running(1, "w1")),
        (backlog(1, NONE), failed(1, transient()), backlog(2, FAILED)),
        (backlog(1, NONE), done_seen(0), done_by(1, 0)),
        (backlog(1, NONE), retracted(1), backlog(2, FAILED)),
        (queued(2), started(2, "w1"), running(2, "w1")),
        (queued(2), failed(2, transient()), backlog(3, FAILED)),
        (queued(2), done_seen(2), done(2)),
        (queued(2), lost(2), backlog(3, EXCUSED)),
        (queued(2), retracted(2), backlog(3, FAILED)),
        (running(2, "w1"), started(2, "w2"), running(2, "w2")),
        (running(2, "w1"), give_back, queued(2)),
        (running(2, "w1"), failed(2, transient()), backlog(3, FAILED)),
        (
            running(2, "w1"),
            failed(
                2,
                Failure::EngineLost {
                    message: "killed".to_owned(),
                },
            ),
            backlog(3, FAILED),
        ),
        (
            running(2, "w1"),
            failed(2, out_of_memory()),
            backlog(3, OUT_OF_MEMORY),
        ),
        (
            running(2, "w1"),
            failed(2, insufficient_memory()),
            backlog(3, INSUFFICIENT_MEMORY),
        ),
        (
            queued(2),
            ChunkEvent::Reassigned { attempt: at(2) },
            backlog(2, NONE),
        ),
        (running(2, "w1"), failed(2, bad_input()), backlog(3, FAILED)),
        (running(2, "w1"), failed(2, unfit()), backlog(3, EXCUSED)),
        (running(2, "w1"), worker_lost("w1"), backlog(3, EXCUSED)),
        (running(2, "w1"), lost(2), backlog(3, EXCUSED)),
        (running(2, "w1"), done_seen(2), done(2)),
        (running(2, "w1"), retracted(2), backlog(3, FAILED)),
        (done(2), retracted(2), backlog(3, FAILED)),
        (quarantined(2, NONE, "x"), done_seen(2), done(2)),
    ];
    for (state, event, expected) in moves {
        assert_eq!(
            state.on(event.clone()),
            Step::Moved(expected),
            "{state:?} on {event:?}"
        );
    }
}

#[test]
fn finished_chunk_ignores_late_results() {
    let give_back = ChunkEvent::Returned { attempt: at(2) };
    for event in [
        ChunkEvent::Released,
        enqueued(2),
        enqueued(3),
        started(2, "w2"),
        started(3, "w2"),
        done_seen(1),
        done_seen(3),
        failed(2, transient()),
        failed(3, bad_input()),
        give_back,
        worker_lost("w1"),
        lost(2),
        retracted(1),
        retracted(3),
    ] {
        assert_eq!(done(2).on(event.clone()), Step::Ignored, "{event:?}");
    }
}

#[test]
fn reports_of_earlier_attempts_and_repeats_are_ignored() {
    for state in [queued(2), running(2, "w1"), backlog(2, NONE)] {
        for event in [
            started(1, "w9"),
            failed(1, bad_input()),
            lost(1),
            enqueued(1),
            retracted(1),
            ChunkEvent::Released,
            ChunkEvent::Returned { attempt: at(1) },
            worker_lost("w9"),
        ] {
            assert_eq!(state.on(event.clone()), Step::Ignored, "{state:?} on {event:?}");
        }
    }
    assert_eq!(running(2, "w1").on(started(2, "w1")), Step::Ignored);
    assert_eq!(queued(2).on(enqueued(2)), Step::Ignored);
    assert_eq!(running(2, "w1").on(enqueued(2)), Step::Ignored);
}

#[test]
fn reports_of_attempts_that_never_were_are_denied() {
    let never = Step::Denied(DenyReason::NeverEnqueued(at(3)));
    for state in [queued(2), running(2, "w1")] {
        assert_eq!(state.on(started(3, "w1")), never);
        assert_eq!(state.on(failed(3, transient())), never);
        assert_eq!(state.on(ChunkEvent::Returned { attempt: at(3) }), never);
        assert_eq!(
            state.on(enqueued(3)),
            Step::Denied(DenyReason::AlreadyUnderWay(at(3)))
        );
    }
}

#[test]
fn a_new_coordinator_outranks_every_attempt_of_the_old_one() {
    let old = Attempt { epoch: 7, number: 9 };
    let new = Attempt { epoch: 8, number: 0 };
    assert!(new > old);
    assert_eq!(old.under(8), Attempt { epoch: 8, number: 9 });
    assert_eq!(old.under(6), old);
}

#[test]
fn no_number_of_attempts_alone_gives_a_chunk_up() {
    let ends: [fn(u32) -> ChunkEvent; 3] =
        [|number| failed(number, transient()), |_| worker_lost("w1"), lost];
    for event in ends {
        let mut state = backlog(0, NONE);
        for number in 0..100 {
            for event in [enqueued(number), started(number, "w1"), event(number)] {
                let Step::Moved(next) = state.on(event) else {
                    panic!("{state:?}")
                };
                state = next;
            }
        }
        assert_eq!((state.phase, state.tries.total()), (Phase::Backlog, 100));
    }
}

#[test]
fn out_of_memory_and_insufficient_memory_use_up_no_other_budget() {
    let mut state = backlog(0, NONE);
    for number in 0..100 {
        let failure = if number % 2 == 0 {
            out_of_memory()
        } else {
            insufficient_memory()
        };
        for event in [enqueued(number), started(number, "w1"), failed(number, failure)] {
            let Step::Moved(next) = state.on(event) else {
                panic!("{state:?}")
            };
            state = next;
        }
    }
    let tries = state.tries;
    assert_eq!((tries.out_of_memory, tries.insufficient_memory), (50, 50));
    assert_eq!((tries.failed, tries.excused), (0, 0));
}

#[test]
fn a_worker_that_pulled_a_task_before_it_was_reassigned_keeps_the_chunk() {
    let reassigned = ChunkEvent::Reassigned { attempt: at(2) };
    assert_eq!(running(2, "w1").on(reassigned.clone()), Step::Ignored);
    let Step::Moved(back) = queued(2).on(reassigned) else {
        panic!("a queued chunk can be reassigned")
    };
    assert_eq!(back.on(started(2, "w1")), Step::Moved(running(2, "w1")));
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    (6_u64..9, 0_u32..5).prop_map(|(epoch, number)| Attempt { epoch, number })
}

fn any_event() -> impl Strategy<Value = ChunkEvent> {
    let name = prop::sample::select(vec!["w1", "w2"]).prop_map(worker).boxed();
    let failure = prop::sample::select(vec![
        transient(),
        out_of_memory(),
        insufficient_memory(),
        bad_input(),
        unfit(),
    ]);
    prop_oneof![
        Just(ChunkEvent::Released),
        Just(ChunkEvent::Blocked {
            reason: "x".to_owned()
        }),
        any_attempt().prop_map(|attempt| ChunkEvent::Enqueued { attempt }),
        (any_attempt(), name.clone()).prop_map(|(attempt, worker)| ChunkEvent::Started { attempt, worker }),
        any_attempt().prop_map(|attempt| ChunkEvent::DoneSeen {
            record: record(attempt)
        }),
        (any_attempt(), name.clone(), failure).prop_map(|(attempt, worker, failure)| ChunkEvent::Failed {
            attempt,
            worker,
            failure
        }),
        any_attempt().prop_map(|attempt| ChunkEvent::Returned { attempt }),
        any_attempt().prop_map(|attempt| ChunkEvent::Reassigned { attempt }),
        name.prop_map(|worker| ChunkEvent::WorkerLost { worker }),
        any_attempt().prop_map(|attempt| ChunkEvent::Retracted {
            attempt,
            worker: None,
            reason: "x".to_owned()
        }),
        any_attempt().prop_map(|attempt| ChunkEvent::QueueLost { attempt }),
        any_attempt().prop_map(|attempt| ChunkEvent::Forged {
            attempt,
            reason: "x".to_owned()
        }),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_the_invariants(events in prop::collection::vec(any_event(), 0..60)) {
        let mut state = ChunkState::default();
        for event in events {
            let Step::Moved(next) = state.on(event.clone()) else { continue };
            prop_assert!(next.attempt >= state.attempt, "attempts never decrease");
            prop_assert!(next.tries.total() >= state.tries.total());
            match &state.phase {
                Phase::Done { .. } => {
 let is_retraction = matches!(event, ChunkEvent::Retracted { .. });
 prop_assert!(is_retraction, "done is final");
 },
                Phase::Quarantined { .. } => {
                    let late_success = matches!(event, ChunkEvent::DoneSeen { .. });
                    prop_assert!(late_success);
                }
                Phase::Waiting | Phase::Backlog | Phase::Queued | Phase::Running { .. } => (),
            }
            let repeated = next.on(event.clone());
            let idempotent = !matches!(repeated, Step::Moved(_)) || matches!(event, ChunkEvent::Failed { .. } | ChunkEvent::Retracted { .. });
            prop_assert!(idempotent, "{:?} counted {:?} twice", next, event);
            state = next;
        }
    }
}
