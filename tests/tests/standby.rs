//! A standby takes over from a coordinator that was killed, hangs or is cut off, and the stale one harms nothing.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use farm_tests::{Coordinator, ProcessTag, Server, Stage};
use nix::sys::signal::Signal;

/// A standby is at work so long after the other coordinator has gone.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn a_standby_goes_on_with_the_jobs_of_one_that_was_killed_or_hangs() {
    let stage = Stage::open();
    let dir = |name: &str| stage.material.path(name);
    let standby = |name: &str| Coordinator::standby(&stage.server, &dir(name), &stage.tag);
    let mut first = stage.coordinator();
    let second = standby("second");
    let job = stage.submit("a.mp4", "1", &[]);
    first.kill();
    second.wait_until_at_work();
    // What was handed to the first is known to the second.
    assert_eq!(stage.about("status", &job, &[])["phase"], "running");
    let third = standby("third");
    second.signal(Signal::SIGSTOP);
    third.wait_until_at_work();
    let other = stage.submit("b.mp4", "2", &[]);
    second.signal(Signal::SIGCONT);
    let log = second.log();
    assert_eq!(second.ended(), Some(1), "{log}");
    for (job, output, seed) in [(&job, "a.mp4", "1"), (&other, "b.mp4", "2")] {
        assert_eq!(stage.about("status", job, &["--wait"])["phase"], "complete");
        let path = stage.material.path(output);
        let fetched = stage.server.operate([
            "fetch",
            job["job"].as_str().unwrap(),
            "-o",
            path.to_str().unwrap(),
        ]);
        stage.assert_like_a_render(output, seed, &fetched.written()["frames_digest"]);
    }
    // A standby that nobody needs ends in order.
    assert_eq!(standby("fourth").interrupt(), Some(0));
    stage.close(third);
}

/// How the coordinator at work is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Killed,
    Hangs,
    CutOff,
}

/// Measures the times from the loss of a coordinator to the first word of its standby: 20 farms of each kind.
#[test]
#[ignore = "60 farms, a minute"]
fn a_standby_takes_over_within_20_seconds() {
    for loss in [Loss::Killed, Loss::Hangs, Loss::CutOff] {
        let trials: Vec<_> = (0..20).map(|_| thread::spawn(move || takeover(loss))).collect();
        let mut times: Vec<Duration> = trials.into_iter().map(|trial| trial.join().unwrap()).collect();
        times.sort_unstable();
        println!(
            "{loss:?}: least {:?}, median {:?}, most {:?}",
            times[0], times[10], times[19]
        );
        assert!(times[19] < TAKEN_OVER_WITHIN, "{loss:?}: {times:?}");
    }
}

/// Returns how long the farm was without a coordinator.
fn takeover(loss: Loss) -> Duration {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let tag = ProcessTag::new();
    let server = Server::start(&path("server"), &[]);
    let link = Link::to(&server.url);
    let mut first = Coordinator::start_at(&link.url, &server, &path("first"), &tag);
    let standby = Coordinator::standby(&server, &path("standby"), &tag);
    let begun = Instant::now();
    match loss {
        Loss::Killed => first.kill(),
        Loss::Hangs => first.signal(Signal::SIGSTOP),
        Loss::CutOff => link.cut(),
    }
    standby.wait_until_at_work();
    let time = begun.elapsed();
    match loss {
        Loss::Killed => {}
        Loss::Hangs => {
            first.signal(Signal::SIGCONT);
            assert_eq!(first.ended(), Some(1));
        }
        Loss::CutOff => {
            link.restore();
            assert_eq!(first.ended(), Some(1));
        }
    }
    assert_eq!(standby.interrupt(), Some(0));
    tag.assert_nothing_left();
    time
}

/// A way to a server that can be cut.
struct Link {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Link {
    fn to(url: &str) -> Self {
        let address = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("nats://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(Mutex::new(State::default()));
        let of_listener = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut state = of_listener.lock().expect("the link");
                if state.is_cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&address) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (
                        from.try_clone().expect("a handle"),
                        to.try_clone().expect("a handle"),
                    );
                    thread::spawn(move || {
                        let _ended = copy(&mut from, &mut to);
                        let _ended = to.shutdown(Shutdown::Both);
                    });
                }
                state.open.extend([client, server]);
            }
        });
        Self { url, state }
    }

    fn cut(&self) {
        let mut state = self.state.lock().expect("the link");
        state.is_cut = true;
        for stream in state.open.drain(..) {
            let _ended = stream.shutdown(Shutdown::Both);
        }
    }

    fn restore(&self) {
        self.state.lock().expect("the link").is_cut = false;
    }
}
