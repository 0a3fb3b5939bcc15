//! The lifecycle of one chunk: the events ([`event`]) and the pure state machine ([`state`]). The diagram is
//! in the [parent module](super).

pub mod event;
#[cfg(test)]
pub(crate) mod probe;
pub mod state;

#[cfg(test)]
mod tests;
