//! The loop of the dispatcher: it waits for what happens next, and does what follows from it.

use std::time::Duration;

use latentfarm_common::shutdown::{Phase, Shutdown};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::dispatcher::Dispatcher;
use super::error::DispatchError;
use super::farm_message::FarmMessage;
use super::order::Order;
use super::verify::{Comparison, Verdict};

const TICK: Duration = Duration::from_millis(500);

/// What the dispatcher waits for besides what comes from the farm.
pub(super) struct Signals {
    ticks: Interval,
    shutdown: Shutdown,
}

impl Signals {
    pub(super) fn new(shutdown: Shutdown) -> Self {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, shutdown }
    }
}

/// What happens next.
enum Happening {
    LeaseLost,
    Stop,
    Drain,
    Tick,
    Order(Box<Order>),
    /// No more orders can come.
    NoOrders,
    Verdict(Verdict),
    Comparison(Comparison),
    Message(Box<FarmMessage>),
    PlacementDue,
}

impl Dispatcher<'_> {
    /// Runs the farm until no more orders can come and all jobs have ended, or until `shutdown`.
    pub(super) async fn run(&mut self, shutdown: Shutdown) -> Result<(), DispatchError> {
        let mut signals = Signals::new(shutdown);
        while !self.is_over() {
            self.turn(&mut signals).await?;
        }
        self.write_estimates(true).await;
        Ok(())
    }

    /// Whether no more orders can come and all jobs have ended.
    pub(super) fn is_over(&self) -> bool {
        let is_drained = self.draining_since.is_some() || !self.takes_orders;
        is_drained && self.jobs.is_empty()
    }

    /// Waits for what happens next, and does what follows from it.
    ///
    /// # Errors
    /// If another coordinator has the lease, or if the farm refuses to work for too long.
    pub(super) async fn turn(&mut self, signals: &mut Signals) -> Result<(), DispatchError> {
        let happening = self.next(signals).await;
        // Much time may have passed since: the process was suspended, or is cut off from the server.
        if self.wait_for_lease(signals).await? {
            self.on_happening(happening).await?;
        }
        if self.wait_for_lease(signals).await? {
            self.go_on().await?;
        }
        Ok(())
    }

    async fn next(&mut self, signals: &mut Signals) -> Happening {
        let Signals { ticks, shutdown } = signals;
        let mut stop = shutdown.clone();
        let draining = self.draining_since.is_some();
        let may_place = !draining && self.link.is_up();
        let placing = self.placer.due_at().filter(|_| may_place);
        tokio::select! {
            // What is rare comes first. Messages may come all the time, and those that have come are taken all at once.
            biased;
            () = self.lease.lost() => Happening::LeaseLost,
            () = stop.reached(Phase::Stopping) => Happening::Stop,
            () = shutdown.reached(Phase::Draining), if !draining => Happening::Drain,
            _ = ticks.tick() => Happening::Tick,
            order = self.orders.recv(), if self.takes_orders && !draining => {
                order.map_or(Happening::NoOrders, |order| Happening::Order(Box::new(order)))
            }
            Some(verdict) = self.results.verdicts.recv() => Happening::Verdict(verdict),
            Some(compared) = self.results.comparisons.recv() => Happening::Comparison(compared),
            Some(message) = self.inbox.messages.recv() => Happening::Message(Box::new(message)),
            () = sleep_until(placing.unwrap_or_else(Instant::now)), if placing.is_some() => {
                Happening::PlacementDue
            }
        }
    }

    /// Waits until this process has its lease, without which it decides nothing. False if it is asked to end instead: its
    /// jobs are interrupted then.
    async fn wait_for_lease(&mut self, signals: &mut Signals) -> Result<bool, DispatchError> {
        while !self.lease.is_held() {
            tokio::select! {
                biased;
                held = self.lease.held() => held.map_err(|_lost| DispatchError::LeaseLost)?,
                () = signals.shutdown.reached(Phase::Draining) => {
                    self.interrupt().await;
                    return Ok(false);
                }
                _ = signals.ticks.tick() => self.report_waits(),
            }
        }
        Ok(true)
    }

    async fn on_happening(&mut self, happening: Happening) -> Result<(), DispatchError> {
        match happening {
            Happening::LeaseLost => return Err(DispatchError::LeaseLost),
            Happening::Stop => self.interrupt().await,
            Happening::Drain => self.drain().await,
            Happening::Tick => self.on_tick().await,
            Happening::Order(order) => self.on_order(*order).await,
            Happening::NoOrders => self.takes_orders = false,
            Happening::Verdict(verdict) => self.on_verdict(verdict).await,
            Happening::Comparison(compared) => self.on_comparison(compared),
            Happening::Message(message) => {
                self.on_message(*message).await;
                while let Ok(message) = self.inbox.messages.try_recv() {
                    self.on_message(message).await;
                }
            }
            Happening::PlacementDue => {}
        }
        Ok(())
    }

    /// Does what can be done by now.
    async fn go_on(&mut self) -> Result<(), DispatchError> {
        self.release();
        if self.draining_since.is_none() && self.link.is_up() {
            self.measure_borders().await;
        }
        self.announce_set_aside().await;
        let is_over = self.is_drained();
        self.finish(|job| job.ending(is_over)).await;
        // Without a link each request would take until its time limit, and nothing else would be done.
        if self.draining_since.is_none() && self.link.is_up() {
            self.place().await;
            self.publisher.publish(&mut self.jobs, &self.workers).await?;
        }
        Ok(())
    }

    /// Ends all jobs as interrupted, and begins no others.
    async fn interrupt(&mut self) {
        self.draining_since.get_or_insert_with(Instant::now);
        self.finish(|job| Some(job.chunks.interrupted())).await;
    }
}
