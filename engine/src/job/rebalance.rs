//! A stream over all shards: what a user says with `rebalance` and `rescale`.

use std::any::type_name;
use std::marker::PhantomData;

use super::graph::{Graph, NodeId};
use super::stream::Stream;
use crate::road::chain::{Chain, Stage};
use crate::road::exchange::ToEachInTurn;
use crate::road::keyed::{ByValue, Contribute};
use crate::road::merge::Merge;
use crate::road::rebalance::Arrived;
use crate::road::stateful::{KeyedRow, WholeRow};

impl<C: Chain<Out: Sized + KeyedRow>> Stream<C> {
    /// Deals the rows out to all shards in turn: for an input with fewer splits than there are shards, or with some that
    /// bring more than others, before work that is worth the way. Order is kept only among the rows that go from one shard to
    /// the same other one.
    ///
    /// ```
    /// # use millstream::{Chain, Stream};
    /// # fn recognise(image: &[u8; 64]) -> u64 { u64::from(image[0]) }
    /// # fn of(images: Stream<impl Chain<Out = [u8; 64]>>) -> Stream<impl Chain<Out = u64>> {
    /// images.rebalance().map(|image| recognise(image))
    /// # }
    /// ```
    pub fn rebalance(self) -> Stream<Rebalanced<C>> {
        self.deal_out("rebalance")
    }

    /// As [`rebalance`](Stream::rebalance), among the shards of the same process alone. A job of one process has no others:
    /// there the two are the same.
    pub fn rescale(self) -> Stream<Rebalanced<C>> {
        self.deal_out("rescale")
    }

    fn deal_out(self, kind: &'static str) -> Stream<Rebalanced<C>> {
        let node = self.flow.node(kind, type_name::<C::Out>().to_owned(), Some(self.node));
        let edge = self.flow.edge();
        Stream { chain: Rebalanced { upstream: self.chain, node, edge }, flow: self.flow, node }
    }
}

/// Rows dealt out: on one shard nothing, on several the end of a chain, an edge, and a task.
#[derive(Debug)]
pub struct Rebalanced<C> {
    upstream: C,
    node: NodeId,
    edge: u32,
}

impl<C: Chain<Out: Sized + KeyedRow>> Chain for Rebalanced<C> {
    type Out = C::Out;
    type Time = C::Time;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let Rebalanced { upstream, node, edge } = self;
        let shard = graph.site.as_ref().map(|site| site.shard);
        match (shard, graph.take_edge(edge)) {
            (Some(shard), Some(edge)) => {
                let nowhere = ByValue(|_: &C::Out| 0_u8, PhantomData);
                let to_each = ToEachInTurn::<C::Out>::new(shard, edge.to);
                upstream.attach(Contribute::new(nowhere, WholeRow, node, to_each), graph);
                graph.tasks.push(Box::new(Merge::new(edge.from, Arrived::new(node, next))));
            }
            _ => upstream.attach(next, graph),
        }
    }
}
