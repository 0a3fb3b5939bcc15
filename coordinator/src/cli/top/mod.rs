//! `latentfarm top`: shows all workers of a farm, live or once, from the heartbeats that they publish.

mod server;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::Message;
use console::Term;
use futures::StreamExt as _;
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::heartbeats::ReadError;
use latentfarm_common::nats::subjects::ALL_HEARTBEATS;
use latentfarm_common::nats::{connect, heartbeats, topology};
use latentfarm_common::wire::outcome::Heartbeat;
use tokio::time::{Instant, MissedTickBehavior};

use super::args::TopArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use super::stdout::print_result;
use table::Row;

const REDRAW: Duration = Duration::from_secs(1);
/// How long `--once` and `--json` collect heartbeats. Every worker sends one every 2 s, so this is enough for
/// all.
const COLLECT: Duration = Duration::from_millis(4500);
/// A worker whose last heartbeat is older than this is no longer shown.
const FORGET_AFTER: Duration = Duration::from_mins(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn main(args: &TopArgs) -> Result<ExitStatus, CommandError> {
    runtime(1)?.block_on(watch(args))
}

/// The last heartbeat of each worker, with the time of its arrival.
#[derive(Default)]
struct FarmView {
    heartbeats: BTreeMap<WorkerId, (Heartbeat, Instant)>,
}

impl FarmView {
    fn record_heartbeat(&mut self, message: &Message, now: Instant) -> Result<(), ReadError> {
        let (heartbeat, _) = heartbeats::read(message)?;
        self.heartbeats.insert(heartbeat.worker.clone(), (heartbeat, now));
        Ok(())
    }

    fn rows(&mut self, now: Instant) -> Vec<Row<'_>> {
        self.heartbeats.retain(|_, (_, at)| now - *at < FORGET_AFTER);
        let rows = self.heartbeats.values().map(|(heartbeat, at)| Row {
            heartbeat,
            silent: now - *at,
        });
        rows.collect()
    }
}

async fn watch(args: &TopArgs) -> Result<ExitStatus, CommandError> {
    let server = server::find(args).map_err(CommandError::refused)?;
    let retry = RetryLimit::For(CONNECT_LIMIT);
    let connection = connect::connect(&server.url, &server.identity, retry)
        .await
        .context(server.no_answer)
        .map_err(CommandError::refused)?;
    let checked = topology::check_store(&connection.context).await;
    checked.map_err(CommandError::failed)?;
    let mut messages = connection
        .client
        .subscribe(ALL_HEARTBEATS)
        .await
        .context("cannot subscribe to the workers' heartbeats")?;
    let mut view = FarmView::default();
    let term = Term::buffered_stdout();
    let is_live = term.is_term() && !args.once && !args.json;
    let mut screen = Screen { term, lines: 0 };
    let collected = tokio::time::sleep(COLLECT);
    tokio::pin!(collected);
    let mut redraw = tokio::time::interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else {
                    return Err(CommandError::failed(anyhow::anyhow!("the server closed the connection")));
                };
                if let Err(error) = view.record_heartbeat(&message, Instant::now()) {
                    tracing::warn!(subject = %message.subject, %error, "a heartbeat cannot be read");
                }
            }
            () = &mut collected, if !is_live => break,
            _ = redraw.tick(), if is_live => {
                let text = table::text(&view.rows(Instant::now()));
                screen.show(&text).context("cannot write to the terminal")?;
            }
            _ = tokio::signal::ctrl_c() => return Ok(ExitStatus::Complete),
        }
    }
    let rows = view.rows(Instant::now());
    let text = if args.json {
        table::json_lines(&rows)
    } else {
        table::text(&rows)
    };
    if !rows.is_empty() || !args.json {
        print_result(text.trim_end_matches('\n'))?;
    }
    Ok(ExitStatus::Complete)
}

/// The terminal, on which each table replaces the previous one.
struct Screen {
    term: Term,
    /// Lines of the table that is shown now.
    lines: usize,
}

impl Screen {
    fn show(&mut self, text: &str) -> std::io::Result<()> {
        let (height, width) = self.term.size();
        self.term.clear_last_lines(self.lines)?;
        // A line that wraps or scrolls off the screen could not be cleared again.
        let shown = text.lines().take(usize::from(height).saturating_sub(1));
        self.lines = 0;
        for line in shown {
            self.term
                .write_line(&console::truncate_str(line, usize::from(width), "…"))?;
            self.lines += 1;
        }
        self.term.flush()
    }
}
