use super::*;
use latentfarm_common::wire::outcome::WorkerCommand;

fn shell(script: &str) -> ChildCommand {
    ChildCommand {
        name: "test",
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        envs: vec![("COLOUR".to_owned(), "green".to_owned())],
        threads: 1,
    }
}

#[tokio::test]
async fn messages_come_back_through_a_child() {
    let mut child = Child::spawn(&shell("exec cat")).unwrap();
    child.send(&WorkerCommand::Drain).await.unwrap();
    let reply: WorkerCommand = child.receive(Duration::from_secs(20)).await.unwrap();
    assert_eq!(reply, WorkerCommand::Drain);
    assert!(child.is_alive());
}

#[tokio::test]
async fn a_closed_child_ends_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ended");
    let child = Child::spawn(&shell(&format!("cat; touch {}", mark.display()))).unwrap();
    child.close().await;
    assert!(mark.exists(), "it was killed before it could exit");
}

async fn exit_of(script: &str) -> ChildExit {
    let mut child = Child::spawn(&shell(script)).unwrap();
    let error = child
        .receive::<WorkerCommand>(Duration::from_secs(20))
        .await
        .unwrap_err();
    match error {
        ChildError::Ended { exit, .. } => exit,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_cause_of_an_exit_is_read_from_status_and_log() {
    let aborted = exit_of("echo 'memory allocation of 99 bytes failed' >&2; kill -ABRT $$").await;
    assert_eq!(
        aborted.cause(),
        ExitCause::OutOfMemory { suspected: false },
        "{aborted}"
    );
    let failed = exit_of("echo \"no such $COLOUR thing\" >&2; exit 1").await;
    assert_eq!(failed.cause(), ExitCause::Other);
    assert!(failed.to_string().contains("no such green thing"), "{failed}");
}

#[tokio::test]
async fn log_lines_of_an_earlier_task_do_not_explain_a_childs_end() {
    let script = "echo 'memory allocation of 99 bytes failed' >&2; head -c 1 >/dev/null; exit 1";
    let mut child = Child::spawn(&shell(script)).unwrap();
    while child.receiver.log.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    child.clear_log();
    // The script reads one byte and exits.
    let _cut_short = child.send(&WorkerCommand::Drain).await;
    let error = child
        .receive::<WorkerCommand>(Duration::from_secs(20))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ChildError::Ended { ref exit, .. } if exit.cause() == ExitCause::Other),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_child_is_killed() {
    let mut child = Child::spawn(&shell("exec sleep 1000")).unwrap();
    let error = child
        .receive::<WorkerCommand>(Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(matches!(error, ChildError::Silent { .. }), "{error}");
    child.receiver.process.wait().await.unwrap();
}

#[tokio::test]
async fn output_that_is_no_message_is_an_error() {
    let mut child = Child::spawn(&shell("echo hello world, this is not the protocol")).unwrap();
    let error = child
        .receive::<WorkerCommand>(Duration::from_secs(20))
        .await
        .unwrap_err();
    assert!(matches!(error, ChildError::InvalidMessage { .. }), "{error}");
}
