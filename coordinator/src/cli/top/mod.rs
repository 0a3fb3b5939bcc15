//! `latentfarm top`: all workers of a farm, live.

mod source;
mod table;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use console::Term;
use futures::StreamExt as _;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::connect::{self, Patience};
use latentfarm_common::nats::subjects::ALL_HEARTBEATS;
use latentfarm_common::wire::{self, outcome::Heartbeat};
use tokio::time::{Instant, MissedTickBehavior};

use super::args::TopArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use table::Row;

const REDRAW: Duration = Duration::from_secs(1);
/// Every worker tells of itself every 2 s: this is long enough to hear all of them.
const LISTEN: Duration = Duration::from_millis(4500);
/// A worker that said nothing for so long is taken off the table.
const FORGET: Duration = Duration::from_mins(2);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Shows the table until Ctrl-C, or once.
pub(super) fn main(args: &TopArgs) -> Result<ExitStatus, CommandError> {
    runtime(1)?.block_on(watch(args))
}

/// The workers that were heard of, and when.
#[derive(Default)]
struct Board {
    seen: BTreeMap<WorkerId, (Heartbeat, Instant)>,
}

impl Board {
    fn hear(&mut self, payload: &[u8], now: Instant) -> Result<(), wire::WireError> {
        let heartbeat: Heartbeat = wire::decode(payload)?;
        self.seen.insert(heartbeat.worker.clone(), (heartbeat, now));
        Ok(())
    }

    fn rows(&mut self, now: Instant) -> Vec<Row<'_>> {
        self.seen.retain(|_, (_, at)| now - *at < FORGET);
        let rows = self.seen.values().map(|(heartbeat, at)| Row {
            heartbeat,
            silent: now - *at,
        });
        rows.collect()
    }
}

async fn watch(args: &TopArgs) -> Result<ExitStatus, CommandError> {
    let source = source::find(args).map_err(CommandError::refused)?;
    let patience = Patience::For(CONNECT_PATIENCE);
    let connection = connect::connect(&source.url, &source.identity, patience)
        .await
        .with_context(|| source.if_absent.clone())
        .map_err(CommandError::refused)?;
    let mut heartbeats = connection
        .client
        .subscribe(ALL_HEARTBEATS)
        .await
        .context("cannot hear the workers' heartbeats")?;
    let mut board = Board::default();
    let term = Term::buffered_stdout();
    let is_live = term.is_term() && !args.once && !args.json;
    let mut screen = Screen { term, lines: 0 };
    let until = tokio::time::sleep(LISTEN);
    tokio::pin!(until);
    let mut redraw = tokio::time::interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = heartbeats.next() => {
                let Some(message) = message else {
                    return Err(CommandError::failed(anyhow::anyhow!("the server closed the connection")));
                };
                if let Err(error) = board.hear(&message.payload, Instant::now()) {
                    tracing::warn!(subject = %message.subject, %error, "a heartbeat cannot be read");
                }
            }
            () = &mut until, if !is_live => break,
            _ = redraw.tick(), if is_live => {
                let text = table::text(&board.rows(Instant::now()));
                screen.show(&text).context("cannot write to the terminal")?;
            }
            _ = tokio::signal::ctrl_c() => return Ok(ExitStatus::Complete),
        }
    }
    let rows = board.rows(Instant::now());
    let text = if args.json {
        table::json_lines(&rows)
    } else {
        table::text(&rows)
    };
    let written = write!(std::io::stdout(), "{text}");
    written.context("cannot write the table")?;
    Ok(ExitStatus::Complete)
}

/// Draws each table over the one before.
struct Screen {
    term: Term,
    lines: usize,
}

impl Screen {
    fn show(&mut self, text: &str) -> std::io::Result<()> {
        let (height, width) = self.term.size();
        self.term.clear_last_lines(self.lines)?;
        // A line that wraps, or one past the last, could not be cleared again.
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
