//! The lifecycle of one chunk: what happens to it ([`event`]), and the pure machine that answers ([`state`]). The
//! diagram is in the [parent module](super).

pub mod event;
pub mod state;

#[cfg(test)]
mod tests;
