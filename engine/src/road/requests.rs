//! Requests to systems outside: each row is asked about, and its answer goes on when it comes.
//!
//! ```text
//! rows, marks ─▶ to come ─▶ asked, `capacity` at most ─▶ answers: in the order of rows, or as they come ─▶ next
//!                  └──────────── a barrier ───────────┴─▶ rows without an answer are part of the snapshot
//! ```
//!
//! **Order.** A mark goes on behind the answers to all rows before it, so nothing becomes late by waiting. Unordered answers
//! overtake each other between two marks, never a mark.
//!
//! **Barriers** overtake. They would wait for the slowest system otherwise; rows that have no answer yet are filed with the
//! epoch, and a restart asks about them again, before any other row. An outside system so hears some requests twice.
//!
//! Requests run on the shard's own executor, beside its loop, which lets them move once a millisecond while it is busy.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::{Timer, timeout};
use millstream_state::schema::{Described, Schema};
use millstream_state::{Epoch, Stored};
use rkyv::api::high::HighDeserializer;
use rkyv::rancor;
use rkyv::util::AlignedVec;
use serde::{Deserialize, Serialize};

use super::chain::{Chain, Signal, Stage};
use super::dense::Dense;
use super::fallible::OnError;
use super::process::BoxError;
use super::rows::{BATCH_ROWS, Rows};
use crate::job::graph::{Graph, NodeId, Site};
use crate::run::fault::{Fault, JobError};
use crate::run::io::{IoRoom, Slot, catch_panic};
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// How rows are asked about; for [`Stream::map_async`](crate::Stream::map_async).
///
/// ```
/// use std::time::Duration;
/// use millstream::{OnError, Requests};
///
/// let how = Requests::unordered(Duration::from_secs(2))
///     .capacity(64)
///     .retries(3, Duration::from_millis(50))
///     .on_error(OnError::Skip);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    is_ordered: bool,
    timeout: Duration,
    capacity: usize,
    retries: u32,
    first_pause: Duration,
    on_error: OnError,
}

impl Requests {
    /// Answers go on in the order of their rows. A row has no answer if none came within `timeout`, retries included.
    #[must_use]
    pub fn ordered(timeout: Duration) -> Requests {
        Requests {
            is_ordered: true,
            timeout,
            capacity: 100,
            retries: 0,
            first_pause: Duration::ZERO,
            on_error: OnError::Fail,
        }
    }

    /// Answers go on as they come, but stay on their side of every watermark. `timeout` as in [`ordered`](Requests::ordered).
    #[must_use]
    pub fn unordered(timeout: Duration) -> Requests {
        Requests { is_ordered: false, ..Requests::ordered(timeout) }
    }

    /// Requests under way at once on each shard: 100 unless told otherwise. More rows than that wait, and hold back those
    /// that read them.
    ///
    /// # Panics
    /// If it is 0.
    #[must_use]
    pub fn capacity(self, capacity: usize) -> Requests {
        assert!(capacity > 0, "one request at least has to be under way at a time");
        Requests { capacity, ..self }
    }

    /// Asks again after an error, so many times at most: at first after `first_pause`, and each time after twice as long.
    #[must_use]
    pub fn retries(self, times: u32, first_pause: Duration) -> Requests {
        Requests { retries: times, first_pause, ..self }
    }

    /// What becomes of a row without an answer: the attempt fails (the default) and the job restarts as its strategy says,
    /// or the row is dropped and counted.
    #[must_use]
    pub fn on_error(self, on_error: OnError) -> Requests {
        Requests { on_error, ..self }
    }
}

/// Rows that can be asked about: they are kept until there is an answer, and filed with the epoch meanwhile.
#[diagnostic::on_unimplemented(
    message = "rows of type `{Self}` cannot be part of a snapshot while they are asked about",
    note = "put #[millstream::event] and #[derive(Clone)] on the type, or map the rows to one that has them"
)]
pub trait RequestRow: Clone + Stored + Described {
    /// The row whose archived form these bytes are.
    #[doc(hidden)]
    fn revive(bytes: &[u8]) -> Result<Self, rancor::Error>;
}

#[diagnostic::do_not_recommend]
impl<T> RequestRow for T
where
    T: Clone + Stored + Described,
    T::Archived: rkyv::Deserialize<T, HighDeserializer<rancor::Error>>,
{
    fn revive(bytes: &[u8]) -> Result<T, rancor::Error> {
        let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        rkyv::from_bytes::<T, rancor::Error>(&aligned)
    }
}

/// Turns every row into what is answered about it.
pub struct MapAsync<C, F> {
    pub(crate) upstream: C,
    pub(crate) ask: F,
    pub(crate) how: Requests,
    pub(crate) node: NodeId,
}

impl<C, F> fmt::Debug for MapAsync<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapAsync(operator {}, {:?})", self.node.0, self.how)
    }
}

impl<C, F> Chain for MapAsync<C, F>
where
    C: Chain<Out: RequestRow>,
    F: Asks<C::Out>,
{
    type Out = F::Answer;
    type Time = C::Time;

    fn attach<N: Stage<F::Answer>>(self, next: N, graph: &mut Graph) {
        let MapAsync { upstream, ask, how, node } = self;
        let opened = graph.on_site(|site, plan| {
            let rows = restore::<C::Out>(site, &plan.uid(node))?;
            Ok((site.io.clone(), rows))
        });
        let Some((io, rows)) = opened else { return };
        let unasked = rows.into_iter().map(|(row, at)| Waiting::Row { row, at, split: 0, answer: None });
        let stage = RequestStage {
            how,
            ask: Rc::new(ask),
            io,
            unasked: unasked.collect(),
            asked: VecDeque::new(),
            under_way: 0,
            answered: Rc::default(),
            looked_at: 0,
            ends: false,
            barrier_comes: false,
            passed: None,
            is_closed: false,
            out: Dense::default(),
            node,
            next,
        };
        upstream.attach(stage, graph);
    }
}

/// A closure that asks. Implemented for every one that returns a future of a `Result<_, BoxError>`.
pub trait Asks<T>: 'static {
    /// What is answered.
    type Answer: 'static;
    /// The request.
    #[doc(hidden)]
    type Request: Future<Output = Result<Self::Answer, BoxError>> + 'static;
    #[doc(hidden)]
    fn ask(&self, row: T) -> Self::Request;
}

impl<T, U, Fut, F> Asks<T> for F
where
    U: 'static,
    Fut: Future<Output = Result<U, BoxError>> + 'static,
    F: Fn(T) -> Fut + 'static,
{
    type Answer = U;
    type Request = Fut;

    fn ask(&self, row: T) -> Fut {
        self(row)
    }
}

/// A row or mark on its way.
enum Waiting<T, U> {
    Row {
        row: T,
        at: Timestamp,
        split: usize,
        /// Where its answer will be, once it is asked about.
        answer: Option<Slot<Answer<U>>>,
    },
    Mark(Signal),
}

/// What came of a request; `Err` is a panic in it.
type Answer<U> = Result<Result<U, BoxError>, String>;

struct RequestStage<T, F: Asks<T>, N> {
    how: Requests,
    ask: Rc<F>,
    io: Rc<IoRoom>,
    /// What came and has not been asked about, for want of capacity.
    unasked: VecDeque<Waiting<T, F::Answer>>,
    asked: VecDeque<Waiting<T, F::Answer>>,
    under_way: usize,
    /// Answers that have come, ever; and when answers were last looked at.
    answered: Rc<Cell<u64>>,
    looked_at: u64,
    /// The end of the input is among what waits.
    ends: bool,
    /// A barrier is on its way here: until it has come, rows are taken beyond the capacity, or it would have to wait for
    /// answers. What is taken is bounded by what was under way before it.
    barrier_comes: bool,
    /// The last one that has passed.
    passed: Option<Epoch>,
    /// The last barrier has passed: what has no answer belongs to the next run.
    is_closed: bool,
    out: Dense<F::Answer>,
    node: NodeId,
    next: N,
}

/// What of the operator is filed at a barrier.
#[derive(Serialize, Deserialize)]
struct Filed {
    /// What they look like.
    row: Schema,
    /// Event times and archived forms, in hexadecimal digits, in the order in which rows came.
    rows: Vec<(i64, String)>,
}

impl<T: RequestRow, F: Asks<T>, N: Stage<F::Answer>> RequestStage<T, F, N> {
    /// Moves on to asking what there is capacity for; marks among it come along.
    fn begin(&mut self) {
        while let Some(first) = self.unasked.front_mut() {
            if let Waiting::Row { row, answer, .. } = first {
                if self.under_way >= self.how.capacity {
                    return;
                }
                self.under_way += 1;
                let request = request(self.ask.clone(), row.clone(), self.how);
                let answered = self.answered.clone();
                *answer = Some(self.io.spawn(async move {
                    let answer = catch_panic(request).await;
                    answered.set(answered.get() + 1);
                    answer
                }));
            }
            self.asked.extend(self.unasked.pop_front());
        }
    }

    /// Takes the answer of the row at `index` of those asked about, if it has come.
    fn take_answer(&mut self, index: usize, cx: &mut Cx<'_>) -> Result<bool, Fault> {
        let Waiting::Row { at, split, answer, .. } = &self.asked[index] else { return Ok(false) };
        let Some(slot) = answer.as_ref().filter(|slot| slot.is_filled()) else { return Ok(false) };
        let (at, split) = (*at, *split);
        self.under_way -= 1;
        match slot.take() {
            Ok(Ok(answer)) => {
                if cx.split != split {
                    self.hand_on(cx)?;
                    cx.split = split;
                }
                self.out.push(answer, at);
            }
            Ok(Err(error)) => match self.how.on_error {
                OnError::Skip => cx.skipped_rows += 1,
                OnError::Fail => {
                    return Err(Fault::process(self.node, format!("a request for a row at {at}"), &*error));
                }
            },
            Err(panic) => return Err(Fault::panic(self.node, panic)),
        }
        self.asked.remove(index);
        Ok(true)
    }

    fn hand_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if !self.out.is_empty() {
            self.next.batch(&self.out.view(), cx)?;
            self.out.clear();
            cx.enter(self.node);
        }
        Ok(())
    }

    /// Hands on answers that have come, as far as the order allows; whether anything went.
    fn answer(&mut self, cx: &mut Cx<'_>) -> Result<bool, Fault> {
        let (mut went, mut index) = (false, 0);
        while index < self.asked.len() && self.out.len() < BATCH_ROWS {
            if let Waiting::Mark(mark) = self.asked[index] {
                if index > 0 {
                    break;
                }
                self.asked.pop_front();
                self.hand_on(cx)?;
                self.next.signal(mark, cx)?;
                self.ends &= mark != Signal::Watermark(Timestamp::MAX);
                went = true;
                if !self.next.ready() {
                    break;
                }
            } else if self.take_answer(index, cx)? {
                went = true;
            } else if self.how.is_ordered {
                break;
            } else {
                index += 1;
            }
        }
        self.hand_on(cx)?;
        Ok(went)
    }

    /// Rows without an answer, to be filed.
    fn file(&self) -> Result<Filed, rancor::Error> {
        let rows = self.asked.iter().chain(&self.unasked).filter_map(|waiting| match waiting {
            Waiting::Row { row, at, .. } => Some((at.0, row)),
            Waiting::Mark(_) => None,
        });
        let rows = rows.map(|(at, row)| Ok((at, to_digits(&rkyv::to_bytes::<rancor::Error>(row)?))));
        Ok(Filed { row: T::schema(), rows: rows.collect::<Result<_, rancor::Error>>()? })
    }
}

impl<T: RequestRow, F: Asks<T>, N: Stage<F::Answer>> Stage<T> for RequestStage<T, F, N> {
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        for index in 0..rows.len() {
            let (row, at, split) = (rows.row(index).clone(), rows.at(index), cx.split);
            self.unasked.push_back(Waiting::Row { row, at, split, answer: None });
        }
        self.begin();
        Ok(())
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            Signal::Barrier(barrier) => {
                let filed =
                    self.file().map_err(|error| Fault::process(self.node, "its snapshot".to_owned(), &error))?;
                cx.file(self.node, serde_json::to_value(filed).expect("numbers and digits are plain JSON"));
                self.is_closed |= barrier.last;
                self.passed = Some(barrier.epoch);
                self.barrier_comes = false;
                self.next.signal(signal, cx)
            }
            Signal::Flush => self.next.signal(signal, cx),
            mark if self.asked.is_empty() && self.unasked.is_empty() => self.next.signal(mark, cx),
            mark => {
                self.ends |= mark == Signal::Watermark(Timestamp::MAX);
                // Behind rows that wait for their turn, or behind all that have had it.
                let queue = if self.unasked.is_empty() { &mut self.asked } else { &mut self.unasked };
                queue.push_back(Waiting::Mark(mark));
                Ok(())
            }
        }
    }

    fn ready(&mut self) -> bool {
        // At the end of the input the barrier waits as well: every row has its answer before the last epoch.
        (self.unasked.is_empty() || self.barrier_comes) && !self.ends && self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let deeper = self.next.resume(cx)?;
        self.barrier_comes = cx.open_epoch().is_some_and(|epoch| Some(epoch) > self.passed);
        if self.is_closed {
            return Ok(deeper);
        }
        let has_mark = matches!(self.asked.front(), Some(Waiting::Mark(_)));
        if self.answered.get() == self.looked_at && !has_mark && self.unasked.is_empty() {
            return Ok(deeper);
        }
        if !self.next.ready() {
            return Ok(deeper.or(Progress::Blocked));
        }
        cx.enter(self.node);
        self.begin();
        let answered = self.answered.get();
        let went = self.answer(cx)?;
        self.begin();
        if went {
            // There may be more than went into one batch.
            return Ok(Progress::Worked);
        }
        self.looked_at = answered;
        Ok(deeper)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.next.states(visitor);
    }
}

/// Asks about a row until there is an answer, or time is up.
async fn request<T: Clone, F: Asks<T>>(ask: Rc<F>, row: T, how: Requests) -> Result<F::Answer, BoxError> {
    let tries = async {
        let mut pause = how.first_pause;
        let mut left = how.retries;
        loop {
            match ask.ask(row.clone()).await {
                Err(_) if left > 0 => {
                    left -= 1;
                    Timer::new(pause).await;
                    pause = pause.saturating_mul(2);
                }
                answer => return Ok(answer),
            }
        }
    };
    let out_of_time = |_| Err(format!("no answer came within {:?}", how.timeout).into());
    timeout(how.timeout, tries).await.unwrap_or_else(out_of_time)
}

/// Rows that the restored checkpoint has no answers of. Those of shards that are no more are dealt out.
fn restore<T: RequestRow>(site: &Site, uid: &str) -> Result<Vec<(T, Timestamp)>, JobError> {
    let unusable = |error: &dyn fmt::Display| JobError::Unusable(format!("operator \"{uid}\": {error}"));
    let (shard, shards) = (site.shard, site.config.shards);
    let parts = site.restored.iter().flat_map(|manifest| &manifest.parts).filter(|part| part.shard % shards == shard);
    let mut rows = Vec::new();
    for operator in parts.flat_map(|part| &part.operators).filter(|operator| operator.uid == uid) {
        let filed = Filed::deserialize(&operator.blob).map_err(|error| unusable(&error))?;
        let row = T::schema();
        if !filed.rows.is_empty() && filed.row != row {
            return Err(JobError::Mismatch(format!(
                "operator \"{uid}\": the checkpoint has {} rows that were still asked about, of type {}, and rows are of type {row} \
                 now. Let the job that took it run until its input has ended or stands still, and begin from a savepoint of that",
                filed.rows.len(),
                filed.row,
            )));
        }
        for (at, digits) in &filed.rows {
            let bytes =
                from_digits(digits).ok_or_else(|| unusable(&"a row of the checkpoint is no hexadecimal number"))?;
            let row = T::revive(&bytes).map_err(|error| unusable(&error))?;
            rows.push((row, Timestamp(*at)));
        }
    }
    Ok(rows)
}

fn to_digits(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).expect("four bits are a digit");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_digits(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        digits.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
