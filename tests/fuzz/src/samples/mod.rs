//! One message of every type and kind, from which the seeds of `wire` and `pipe` are encoded.

mod children;
mod farm;
mod parts;

pub(crate) use children::{engine_replies, engine_requests, media_replies, media_requests};
pub(crate) use farm::{
    analyze_input, commands, cut_records, done_records, events, heartbeats, job_spec, learned_needs,
    observations, render_input, shared_weights, tasks, timeline,
};
