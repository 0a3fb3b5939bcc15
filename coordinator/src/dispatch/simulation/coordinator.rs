//! The process of a coordinator: it waits for the lease, runs the product's dispatcher with it, and brings it what the
//! registry has of the jobs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::lease::{Contention, LeaseTtl};
use latentfarm_common::shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::check::{self, Book};
use super::gate::Gate;
use super::lease::{Lease, Standing};
use super::link::SimulatedLink;
use super::world::World;
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::error::DispatchError;
use crate::dispatch::lease_view::LeaseView as _;
use crate::dispatch::order::{Admission, JobEnd, Order};
use crate::dispatch::settings::{FarmSettings, Timeouts};
use crate::dispatch::turn::Signals;
use crate::job::chunks::Ending;

/// How long a job that could not be dispatched waits.
const PAUSE: Duration = Duration::from_secs(5);

type End = oneshot::Receiver<Result<JobEnd, DispatchError>>;

/// Runs a coordinator, which takes the lease whenever it is free.
pub(super) async fn run(world: Arc<World>, number: usize, gate: Arc<Gate>) {
    loop {
        if let Some(lease) = Lease::acquire(&world, number, &gate) {
            let ended = dispatch(&world, number, &gate, &lease).await;
            world.with(|state| {
                let name = match &ended {
                    Ok(()) => "a coordinator has ended",
                    Err(DispatchError::LeaseLost) => "a coordinator has lost its lease",
                    Err(_) => "a coordinator has failed",
                };
                state.recorder.count(name);
                state.recorder.log(|| format!("coordinator {number}: {ended:?}"));
            });
            if !lease.is_lost() {
                lease.release(&world);
            }
            let pause = world.with(|state| state.random.ms(500, 4000));
            sleep(pause).await;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

fn settings(has_spot_checks: bool) -> FarmSettings {
    FarmSettings {
        holder: "simulated".to_owned(),
        contention: Contention::Refuse,
        lease_time: LeaseTtl::default(),
        spot_check: NonZeroU32::new(u32::from(has_spot_checks)),
        timeouts: Timeouts {
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(32)),
            set_aside: Backoff::new(Duration::from_secs(32), Duration::from_secs(256)),
            ..Timeouts::default()
        },
    }
}

async fn dispatch(
    world: &Arc<World>,
    number: usize,
    gate: &Arc<Gate>,
    lease: &Lease,
) -> Result<(), DispatchError> {
    let standing = Arc::new(Standing::default());
    standing.set(lease);
    let link = Arc::new(SimulatedLink {
        world: Arc::clone(world),
        coordinator: number,
        epoch: lease.epoch(),
        gate: Arc::clone(gate),
        standing,
    });
    let (orders, receiver) = mpsc::unbounded_channel();
    let settings = settings(world.with(|state| state.has_spot_checks));
    let mut dispatcher = Dispatcher::open(link, lease, settings, receiver).await?;
    let (trigger, handle, _drain) = shutdown::channel();
    let mut signals = Signals::new(handle);
    let mut registry = Registry {
        number,
        epoch: lease.epoch(),
        orders,
        jobs: BTreeMap::new(),
        again: BTreeMap::new(),
    };
    let mut book = Book::new(number, lease.epoch());
    loop {
        registry.bring(world);
        dispatcher.turn(&mut signals).await?;
        world.with(|state| check::dispatcher(state, &mut book, &dispatcher));
        if world.with(|state| state.recorder.first_violation().is_some()) {
            // The run is over, even if this dispatcher would never wait for anything.
            std::future::pending::<()>().await;
        }
        registry.take_ends(world);
        if world.with(|state| state.asked_to_drain.remove(&number)) {
            trigger.drain();
        }
        if dispatcher.is_over() {
            return Ok(());
        }
    }
}

/// What a coordinator has brought to its dispatcher.
struct Registry {
    number: usize,
    epoch: u64,
    orders: mpsc::UnboundedSender<Order>,
    jobs: BTreeMap<JobId, Brought>,
    /// The jobs that could not be dispatched, with the time of the next try.
    again: BTreeMap<JobId, Instant>,
}

struct Brought {
    end: End,
    is_paused: bool,
    priority: u8,
    is_cancelled: bool,
}

impl Registry {
    /// Orders what the registry has, and the dispatcher has not.
    fn bring(&mut self, world: &World) {
        let now = Instant::now();
        world.with(|state| {
            for (id, job) in &mut state.jobs {
                let Some(brought) = self.jobs.get_mut(id) else {
                    let is_early = self.again.get(id).is_some_and(|at| now < *at);
                    if !job.is_open() || is_early {
                        continue;
                    }
                    if job.is_cancelled {
                        job.ending = Some(Ending::Cancelled);
                        continue;
                    }
                    let (ended, end) = oneshot::channel();
                    // Nobody looks at the events.
                    let (observer, _) = mpsc::unbounded_channel();
                    let admission = Admission {
                        planned: job.planned(),
                        settings: job.settings.clone(),
                        observer,
                        ended,
                    };
                    job.counted.clear();
                    self.order(Order::Admit(Box::new(admission)));
                    let brought = Brought {
                        end,
                        is_paused: false,
                        priority: job.settings.priority,
                        is_cancelled: false,
                    };
                    self.jobs.insert(*id, brought);
                    continue;
                };
                let mut orders = Vec::new();
                if std::mem::replace(&mut brought.is_paused, job.is_paused) != job.is_paused {
                    let is_paused = job.is_paused;
                    orders.push(Order::Pause { job: *id, is_paused });
                }
                let priority = job.settings.priority;
                if std::mem::replace(&mut brought.priority, priority) != priority {
                    orders.push(Order::SetPriority { job: *id, priority });
                }
                if !std::mem::replace(&mut brought.is_cancelled, job.is_cancelled) && job.is_cancelled {
                    orders.push(Order::Cancel(*id));
                }
                for order in orders {
                    self.order(order);
                }
            }
        });
    }

    fn order(&self, order: Order) {
        // The dispatcher has the receiver.
        let _sent = self.orders.send(order);
    }

    /// Takes how jobs ended, which counts if the lease is still that of this coordinator.
    fn take_ends(&mut self, world: &World) {
        let mut ended = Vec::new();
        for (id, brought) in &mut self.jobs {
            if let Ok(end) = brought.end.try_recv() {
                ended.push((*id, end));
            }
        }
        for (id, end) in ended {
            self.jobs.remove(&id);
            world.with(|state| {
                state.recorder.log(|| {
                    let ending = end.as_ref().map(|end| &end.ending);
                    format!("coordinator {}: job {id} has ended: {ending:?}", self.number)
                });
                match end {
                    Ok(end) if state.lease.epoch() == self.epoch => check::end(state, id, &end),
                    Ok(_) => state.recorder.count("the end of a job comes too late"),
                    Err(_) => {
                        state.recorder.count("a job could not begin");
                        self.again.insert(id, Instant::now() + PAUSE);
                    }
                }
            });
        }
    }
}
