//! What each query is on the engine.
//!
//! Each takes of an event what it needs before anything crosses to another shard. Texts that cross are `Text<N>`, with room
//! for what the generator makes; one that does not fit fails the job, none is cut.

pub(super) mod stateless;

use millstream::{Flow, Source};

use super::output::Output;
use super::query::Query;
use super::source::Numbered;

/// Events, from wherever: what all queries begin with.
pub(super) trait Events: Source<Batch = Vec<Numbered>> {}

impl<S: Source<Batch = Vec<Numbered>>> Events for S {}

/// Says what flows.
pub(super) fn flow(query: Query, flow: &Flow, events: impl Events, output: Output) {
    match query {
        Query::Q0 => stateless::q0(flow, events, output),
        Query::Q1 => stateless::q1(flow, events, output),
        Query::Q2 => stateless::q2(flow, events, output),
        Query::Q14 => stateless::q14(flow, events, output),
        Query::Q21 => stateless::q21(flow, events, output),
        Query::Q22 => stateless::q22(flow, events, output),
    }
}
