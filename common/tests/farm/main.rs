//! Tests of stores, streams and servers as a farm uses them, against a real nats-server. They are one
//! program, because each program that links the NATS client costs CI half a minute.

#![cfg(feature = "farm")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod blob;
mod cluster;
mod connection;
mod keys;
mod lease;
mod lines;
mod queue;
mod roles;
mod schema;
mod server;
mod shared_weights;
#[path = "../support/mod.rs"]
mod support;
