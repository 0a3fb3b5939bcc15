//! Tests of what a connection logs about its server, and of what outlasts an outage.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::lines::Lines;
use crate::support::{Farm, LIMIT, eventually, worker};
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::nats::connect;
use tokio::time::timeout;

#[tokio::test]
async fn a_lost_server_is_one_line_and_one_when_it_is_back_however_many_tries_fail() {
    let mut farm = Farm::start().await;
    let lines = Lines::default();
    let _guard = lines.capture();
    let connection = farm.worker("w1").await;
    let mut exit = farm.server.exit();
    let pid = nix::unistd::Pid::from_raw(farm.server.id());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    timeout(LIMIT, exit.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap();
    eventually("four tries fail", async || {
        let outage = connection.outage()?;
        (outage.failed_tries >= 4).then_some(())
    })
    .await;
    farm.server.restart().await.unwrap();
    timeout(LIMIT, connection.up()).await.unwrap();
    timeout(LIMIT, farm.coordinator.up()).await.unwrap();
    // The coordinator's connection has two lines too.
    eventually("the last line", async || (lines.count() >= 4).then_some(())).await;
    let lines = lines.take();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    for text in ["lost the connection", "again, after"] {
        let count = lines.iter().filter(|line| line.contains(text)).count();
        assert_eq!(count, 2, "{text}: {lines:#?}");
    }
    for line in lines {
        assert!(line.contains(&farm.server.url()), "{line}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_one_line_and_one_when_it_is() {
    let mut farm = Farm::start().await;
    let identity = farm.server.worker(&worker("w1")).unwrap();
    let url = farm.server.url();
    let mut exit = farm.server.exit();
    let pid = nix::unistd::Pid::from_raw(farm.server.id());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    timeout(LIMIT, exit.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap();
    let lines = Lines::default();
    let _guard = lines.capture();
    let connecting = connect(&url, &identity, RetryLimit::Forever);
    tokio::pin!(connecting);
    let begun = eventually("a try fails", async || (lines.count() >= 1).then_some(()));
    tokio::select! {
        _ = &mut connecting => panic!("there is no server"),
        () = begun => {}
    }
    // A second try fails too: its pause is over before the server has started.
    let (connection, restarted) = tokio::join!(timeout(LIMIT, &mut connecting), farm.server.restart());
    restarted.unwrap();
    assert!(connection.unwrap().unwrap().is_up());
    let mut lines = lines.take();
    // The coordinator's connection has a line of its own.
    lines.retain(|line| !line.contains("nats::link"));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(
        lines[0].contains("cannot connect") && lines[0].contains(&url),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].contains("connected") && lines[1].contains(&url),
        "{}",
        lines[1]
    );
}

#[tokio::test]
async fn an_operation_that_fails_in_an_outage_is_repeated_and_other_errors_are_not() {
    let mut farm = Farm::start().await;
    let connection = farm.worker("w1").await;
    let calls = AtomicU32::new(0);
    let server = nix::unistd::Pid::from_raw(farm.server.id());
    let operation = || async {
        if calls.fetch_add(1, Ordering::SeqCst) > 0 {
            return Ok("done");
        }
        nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL).unwrap();
        eventually("the link is down", async || (!connection.is_up()).then_some(())).await;
        Err("the server was killed")
    };
    let restart = async {
        eventually("the link is down", async || (!connection.is_up()).then_some(())).await;
        farm.server.restart().await.unwrap();
    };
    let (result, ()) = tokio::join!(connection.outlast(operation), restart);
    assert_eq!(result, Ok("done"));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let refused = connection.outlast(|| async {
        calls.fetch_add(1, Ordering::SeqCst);
        Err::<(), _>("no")
    });
    assert_eq!(refused.await, Err("no"));
    assert_eq!(calls.load(Ordering::SeqCst), 3, "the link was up");
}
