#[path = "../../../tests/farm/lines.rs"]
mod lines;

use super::*;
use lines::Lines;

fn refused() -> Event {
    Event::ClientError(async_nats::ClientError::Other("IO error".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_two_lines_and_a_reminder_each_minute_however_many_tries_fail() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let monitor = LinkMonitor::start("nats://farm:4222");
    monitor.on_event(&Event::Connected);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(lines.take(), Vec::<String>::new(), "a link that holds is no news");
    monitor.on_event(&Event::Disconnected);
    for _ in 0..160 {
        monitor.on_event(&refused());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(
        monitor.outage().borrow().as_ref().map(|o| o.failed_tries),
        Some(160)
    );
    monitor.on_event(&Event::Connected);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lines = lines.take();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    for line in &lines {
        assert!(line.contains("nats://farm:4222"), "{line}");
    }
    assert!(lines[0].contains("lost the connection"), "{}", lines[0]);
    assert!(lines[1].contains("for 10 s (IO error)"), "{}", lines[1]);
    assert!(lines[2].contains("for 70 s"), "{}", lines[2]);
    assert!(lines[3].contains("again, after 80 s"), "{}", lines[3]);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_was_shut_out_is_not_advised_to_start_the_server() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let monitor = LinkMonitor::start("nats://farm:4222");
    monitor.on_event(&Event::Disconnected);
    // As the client library words it.
    let error = "authorization violation: nats: authorization violation";
    monitor.on_event(&Event::ClientError(async_nats::ClientError::Other(
        error.to_owned(),
    )));
    tokio::time::sleep(Duration::from_secs(15)).await;
    let lines = lines.take();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[1].contains("was revoked, or has expired"), "{}", lines[1]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_without_a_link_ends_the_reports() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let monitor = LinkMonitor::start("nats://farm:4222");
    monitor.on_event(&Event::Disconnected);
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(monitor);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(lines.take().len(), 1);
}
