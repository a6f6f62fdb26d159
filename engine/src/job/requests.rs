//! A stream and systems outside: what a user says with `map_async`.

use std::any::type_name;
use std::future::Future;

use super::stream::Stream;
use crate::road::chain::Chain;
use crate::road::process::BoxError;
use crate::road::requests::{MapAsync, RequestRow, Requests};

impl<C: Chain<Out: RequestRow>> Stream<C> {
    /// Turns every row into what a system outside answers about it, with many requests under way at a time.
    ///
    /// `ask` gives a future that runs on the shard's own executor, glommio's, beside the loop: it need not be `Send`, may
    /// hold an `Rc` of a client, and must not block. Its answer has the row's event time.
    ///
    /// Rows that have no answer at a barrier are part of the snapshot, and are asked about again after a restart: an outside
    /// system may hear of a row twice, what follows sees one answer. Where order matters say [`Requests::ordered`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use millstream::{BoxError, Items, Job, Requests};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    ///
    /// /// Would ask a service; takes longer for some than for others.
    /// async fn price_of(article: u64) -> Result<u64, BoxError> {
    ///     glommio::timer::sleep(Duration::from_millis(article % 3)).await;
    ///     if article == 0 { Err("there is no article 0".into()) } else { Ok(article * 100) }
    /// }
    ///
    /// Job::new("prices", move |flow| {
    ///     let how = Requests::ordered(Duration::from_secs(5)).capacity(16).retries(2, Duration::from_millis(10));
    ///     flow.source(Items::of(vec![5_u64, 3, 4]))
    ///         .map_async(how, |article| async move { Ok((article, price_of(article).await?)) })
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// assert_eq!(rows.rows(), [(5, 500), (3, 300), (4, 400)]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// Rows have to be such that a snapshot can hold them:
    ///
    /// ```compile_fail
    /// # use millstream::{Chain, Requests, Stream};
    /// # use std::time::Duration;
    /// #[derive(Clone)]
    /// struct Order { number: u64 }
    ///
    /// fn asked(orders: Stream<impl Chain<Out = Order>>) -> Stream<impl Chain<Out = u64>> {
    ///     // rows of type `Order` cannot be part of a snapshot while they are asked about
    ///     orders.map_async(Requests::ordered(Duration::from_secs(1)), |order| async move { Ok(order.number) })
    /// }
    /// ```
    pub fn map_async<U, Fut, F>(self, how: Requests, ask: F) -> Stream<MapAsync<C, F>>
    where
        U: 'static,
        Fut: Future<Output = Result<U, BoxError>> + 'static,
        F: Fn(C::Out) -> Fut + 'static,
    {
        let node = self.flow.node("map_async", type_name::<U>().to_owned(), Some(self.node));
        Stream { chain: MapAsync { upstream: self.chain, ask, how, node }, flow: self.flow, node }
    }
}
