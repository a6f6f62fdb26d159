//! The operator harness: whole shards on one thread, stepped by hand, with everything cruel that a real run has rarely.
//!
//! ```text
//! script of a shard ─▶ ScriptTask ─▶ the chain on trial ─▶ (lanes of few buffers ─▶ Merge ─▶) ─▶ Record
//! ```
//!
//! The record has room for one item out and is emptied once a turn; shards take turns in a random order; an epoch ends in
//! a checkpoint, an abort, or a crash, after which new shards are restored from the manifest and read on from where their
//! barriers stood. The record checks the grammar of what reaches it. What it holds at the end is the job's output.
//!
//! A script in words: `a@4` a row of key `a` at 4 ms, `W10` a watermark, `I` idle, `A` active again, `F` flush, `B` a barrier.

mod connect;
mod edge;
mod process;
mod record;
mod running;
mod sketches;
mod sliding;
mod triggered;
mod source;
mod windows;

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};
use millstream_network::Doorbell;
use millstream_state::{Epoch, FORMAT_VERSION, Manifest, Store};
use proptest::test_runner::Config as ProptestConfig;

use self::record::{Out, Record};
use super::chain::{Chain, Signal, Stage};
use super::dense::Dense;
use super::has_time::Timed;
use crate::epoch::Barrier;
use crate::epoch::snapshot::{OpenEpoch, Verdict};
use crate::job::config::Config;
use crate::job::flow::Flow;
use crate::job::graph::{Graph, NodeId, Plan, Site};
use crate::job::stream::Stream;
use crate::run::crew::lay_edges;
use crate::run::fault::Fault;
use crate::run::io::IoRoom;
use crate::run::task::{Cx, Progress, StateVisitor, Task};
use crate::time::{BatchClock, Timestamp};

/// Silence after which a source on trial takes a split for idle.
const IDLE_TIMEOUT: Duration = Duration::from_millis(10);

/// So many cases, or as many as `PROPTEST_CASES` says. A case here is long: one that fails is not shrunk for ever.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let config = ProptestConfig { max_shrink_iters: 300, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: usual, ..config } }
}

/// One word of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Word {
    /// Keys with their event times, as one batch.
    Rows(Vec<(u64, i64)>),
    Watermark(i64),
    Idle,
    Active,
    Flush,
    /// Where this shard's source puts the barrier of the epoch under way.
    Barrier,
}

fn words(script: &str) -> Vec<Word> {
    let number = |text: &str| if text == "max" { i64::MAX } else { text.parse().unwrap() };
    script
        .split_whitespace()
        .map(|word| match word.split_once('@') {
            Some((key, at)) => Word::Rows(vec![(u64::from(key.as_bytes()[0]), number(at))]),
            None if word == "I" => Word::Idle,
            None if word == "A" => Word::Active,
            None if word == "F" => Word::Flush,
            None if word == "B" => Word::Barrier,
            None => Word::Watermark(number(word.strip_prefix('W').expect("a watermark: W10"))),
        })
        .collect()
}

/// How a world is run.
#[derive(Clone, Copy, Debug)]
struct Cruelty {
    combine: bool,
    /// Rows out before the record wants to be emptied.
    room: usize,
    /// Buffers of every lane.
    buffers: usize,
    /// Flush after every word, as an idle shard does.
    flush: bool,
    /// Decides the order of turns and what becomes of epochs.
    seed: u64,
    ends: Ends,
    /// Rounds in which nothing moves before the world is taken to stand still. A round is a millisecond.
    patience: usize,
}

/// What becomes of epochs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ends {
    Complete,
    /// Complete and then restored at once, losing what came after the barrier.
    Crash,
    /// One of complete, crash and abort.
    Any,
}

impl Default for Cruelty {
    fn default() -> Cruelty {
        Cruelty { combine: true, room: 1, buffers: 4, flush: false, seed: 1, ends: Ends::Crash, patience: 3 }
    }
}

/// A shard's script and how far it has been played.
struct Script {
    words: Vec<Word>,
    at: Cell<usize>,
    /// The barrier that the next barrier word stands for.
    barrier: Cell<Option<Barrier>>,
    /// The word behind the last barrier that passed.
    passed_at: Cell<usize>,
}

/// The chain's beginning: a script instead of a source.
struct Scripted(Rc<Script>);

impl Chain for Scripted {
    type Out = u64;
    type Time = Timed;

    fn attach<N: Stage<u64>>(self, next: N, graph: &mut Graph) {
        graph.tasks.push(Box::new(ScriptTask { script: self.0, rows: Dense::default(), next }));
    }
}

struct ScriptTask<N> {
    script: Rc<Script>,
    rows: Dense<u64>,
    next: N,
}

impl<N: Stage<u64>> Task for ScriptTask<N> {
    fn step(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let deferred = self.next.resume(cx)?;
        if deferred == Progress::Worked || !self.next.ready() {
            return Ok(deferred.or(Progress::Blocked));
        }
        let Some(word) = self.script.words.get(self.script.at.get()) else { return Ok(deferred) };
        match word {
            Word::Rows(rows) => {
                self.rows.clear();
                rows.iter().for_each(|(key, at)| self.rows.push(*key, Timestamp(*at)));
                self.next.batch(&self.rows.view(), cx)?;
            }
            Word::Watermark(at) => self.next.signal(Signal::Watermark(Timestamp(*at)), cx)?,
            Word::Idle => self.next.signal(Signal::Idle, cx)?,
            Word::Active => self.next.signal(Signal::Active, cx)?,
            Word::Flush => self.next.signal(Signal::Flush, cx)?,
            Word::Barrier => {
                let Some(barrier) = self.script.barrier.get() else { return Ok(Progress::Blocked) };
                // As a source does.
                self.next.signal(Signal::Flush, cx)?;
                if !self.next.ready() {
                    return Ok(Progress::Blocked);
                }
                self.script.barrier.set(None);
                self.next.signal(Signal::Barrier(barrier), cx)?;
                cx.passed();
                self.script.passed_at.set(self.script.at.get() + 1);
            }
        }
        self.script.at.set(self.script.at.get() + 1);
        Ok(Progress::Worked)
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.next.signal(Signal::Flush, cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.next.states(visitor);
    }
}

/// One shard, without its loop.
struct OnTrial {
    tasks: Vec<Box<dyn Task>>,
    plan: Plan,
    clock: BatchClock,
    io: Rc<IoRoom>,
    epoch: Option<OpenEpoch>,
    script: Rc<Script>,
}

impl OnTrial {
    /// Lets every task of the shard work once.
    fn turn(&mut self, now_ms: i64, flush: bool) -> Progress {
        let current = Cell::new(NodeId(0));
        let mut cx = Cx::new(now_ms, &current, &self.clock, self.epoch.as_mut());
        let mut progress = Progress::Idle;
        for task in &mut self.tasks {
            progress = progress.or(task.step(&mut cx).map_err(|fault| fault.describe(&self.plan)).unwrap());
            if flush {
                task.flush(&mut cx).map_err(|fault| fault.describe(&self.plan)).unwrap();
            }
        }
        if let Some(epoch) = &mut self.epoch {
            // A page at a time, so that the road goes on between any two.
            if epoch.drain(&mut self.tasks, 4096) {
                progress = Progress::Worked;
            }
        }
        progress
    }
}

/// All shards of a job on one thread.
struct World {
    cruelty: Cruelty,
    build: Rc<dyn Fn(&Flow, Stream<Scripted>, Record)>,
    scripts: Vec<Vec<Word>>,
    shards: Vec<OnTrial>,
    records: Vec<Record>,
    store: Rc<Store>,
    random: u64,
    now_ms: i64,
    epoch: u64,
    late: u64,
}

/// What a world came to.
struct Outcome {
    /// What reached each shard's record.
    items: Vec<Vec<Out>>,
    /// Contributions that came too late.
    late: u64,
}

impl Outcome {
    /// All rows of all shards, sorted.
    fn rows(&self) -> Vec<String> {
        let rows = self
            .items
            .iter()
            .flatten()
            .filter_map(|item| if let Out::Row(row) = item { Some(row.clone()) } else { None });
        let mut rows: Vec<String> = rows.collect();
        rows.sort_unstable();
        rows
    }

    /// The first shard's items in words, without barriers; rows between two marks have no order and are sorted.
    fn text(&self) -> String {
        let mut text: Vec<String> = Vec::new();
        let mut from = 0;
        for item in &self.items[0] {
            match item {
                Out::Row(row) => {
                    text.push(row.clone());
                    continue;
                }
                Out::Watermark(i64::MAX) => text.push("Wmax".into()),
                Out::Watermark(at) => text.push(format!("W{at}")),
                Out::Idle => text.push("I".into()),
                Out::Active => text.push("A".into()),
                // A barrier says nothing of the rows before and behind it.
                Out::Barrier(_) => continue,
            }
            let mark = text.len() - 1;
            text[from..mark].sort_unstable();
            from = text.len();
        }
        text[from..].sort_unstable();
        text.join(" ")
    }
}

/// Plays one script a shard through the chain that `build` makes.
fn play(
    scripts: Vec<Vec<Word>>,
    cruelty: Cruelty,
    build: impl Fn(&Flow, Stream<Scripted>, Record) + 'static,
) -> Outcome {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20).make().unwrap();
    executor.run(async move {
        // glommio 0.9.0 may sleep with runnable tasks; a timer that has to fire bounds that sleep.
        let heartbeat = glommio::spawn_local(async {
            loop {
                Timer::new(Duration::from_millis(5)).await;
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let store = Rc::new(Store::open(dir.path()).unwrap());
        let records = scripts.iter().map(|_| Record::new(cruelty.room)).collect();
        let build = Rc::new(build);
        let (random, shards) = (cruelty.seed | 1, Vec::new());
        let mut world = World { cruelty, build, scripts, shards, records, store, random, now_ms: 0, epoch: 0, late: 0 };
        world.begin(None, None);
        world.run().await;
        heartbeat.cancel().await;
        let items = world.records.iter().map(Record::items).collect();
        Outcome { items, late: world.late }
    })
}

impl World {
    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    /// Builds all shards anew, from a checkpoint or from nothing.
    fn begin(&mut self, restored: Option<Arc<Manifest>>, positions: Option<Vec<usize>>) {
        self.shards.clear();
        let count = self.scripts.len();
        let positions = positions.unwrap_or_else(|| vec![0; count]);
        let config = Config {
            shards: count as u32,
            combine: self.cruelty.combine,
            idle_timeout: IDLE_TIMEOUT,
            ..Config::default()
        };
        let config = Arc::new(config);
        let doorbells: Vec<_> = (0..count).map(|shard| (shard as u32, Arc::new(Doorbell::new().unwrap()))).collect();
        // The plan is the same everywhere; the first pass says how many edges it has.
        let edges = self.describe(Flow::new(Graph::new(None)), 0, positions[0]).1.plan.edges;
        let mut laid = lay_edges(edges, count as u32, &doorbells, self.cruelty.buffers);
        for shard in 0..count {
            let io = IoRoom::open(shard as u32, Some(self.store.clone()), doorbells[shard].1.fd().as_raw_fd()).unwrap();
            let site = Site {
                shard: shard as u32,
                config: config.clone(),
                store: Some(self.store.clone()),
                io: io.clone(),
                restored: restored.clone(),
                savepoint: None,
                taken: Cell::default(),
                edges: std::mem::take(&mut laid[shard].edges),
                taken_us: Cell::default(),
            };
            let (script, graph) = self.describe(Flow::new(Graph::new(Some(site))), shard, positions[shard]);
            assert!(graph.error.is_none(), "{}", graph.error.unwrap());
            self.shards.push(OnTrial {
                tasks: graph.tasks,
                plan: graph.plan,
                clock: graph.clock,
                io,
                epoch: None,
                script,
            });
        }
    }

    fn describe(&self, flow: Flow, shard: usize, at: usize) -> (Rc<Script>, Graph) {
        let words = self.scripts[shard].clone();
        let script = Script { words, at: Cell::new(at), barrier: Cell::new(None), passed_at: Cell::new(at) };
        let script = Rc::new(script);
        let node = flow.node("script", String::new(), None);
        let stream = Stream { chain: Scripted(script.clone()), flow: flow.clone(), node };
        (self.build)(&flow, stream, self.records[shard].clone());
        (script, flow.into_graph())
    }

    /// Plays all scripts to their ends.
    async fn run(&mut self) {
        loop {
            self.epoch += 1;
            let more =
                self.shards.iter().all(|shard| shard.script.words[shard.script.at.get()..].contains(&Word::Barrier));
            if !more {
                break;
            }
            self.take_epoch().await;
        }
        self.settle();
        for shard in &self.shards {
            assert_eq!(shard.script.at.get(), shard.script.words.len(), "the script was played to its end");
        }
        struct Late<'a>(&'a mut u64);
        impl StateVisitor for Late<'_> {
            fn late(&mut self, rows: u64) {
                *self.0 += rows;
            }
        }
        for task in self.shards.iter_mut().flat_map(|shard| &mut shard.tasks) {
            task.states(&mut Late(&mut self.late));
        }
    }

    /// Turns in random order until nothing moves, even after a flush.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < self.cruelty.patience {
            let worked = self.round(quiet > 0);
            quiet = if worked { 0 } else { quiet + 1 };
        }
    }

    /// As many turns as there are shards, of shards drawn at random; and at last of each.
    fn round(&mut self, flush: bool) -> bool {
        self.now_ms += 1;
        let mut worked = false;
        for turn in 0..2 * self.shards.len() {
            let drawn = if turn < self.shards.len() { self.draw(self.shards.len()) } else { turn - self.shards.len() };
            let progress = self.shards[drawn].turn(self.now_ms, flush || self.cruelty.flush);
            self.records[drawn].empty();
            worked |= progress == Progress::Worked;
        }
        worked
    }

    /// Opens an epoch on every shard, lets the barriers travel, and ends it one way or another.
    async fn take_epoch(&mut self) {
        let barrier = Barrier { epoch: Epoch(self.epoch), last: false };
        for shard in &mut self.shards {
            shard.epoch = Some(OpenEpoch::new(barrier, shard.tasks.len(), shard.io.clone(), u64::MAX));
            shard.script.barrier.set(Some(barrier));
        }
        for patience in 0.. {
            assert!(patience < 200_000, "epoch {} was never settled", self.epoch);
            // A partial buffer waits for the linger at most, or nobody would get it back.
            self.round(patience % 16 == 15);
            // Only I/O can be missing once every script has passed its barrier; before that the disk may be slow.
            if patience % 8 == 7 {
                self.shards[0].io.reactor_pass().await;
            }
            if self.shards.iter().all(|shard| shard.epoch.as_ref().is_some_and(OpenEpoch::is_settled)) {
                break;
            }
        }
        let ends = match self.cruelty.ends {
            Ends::Any => [Ends::Complete, Ends::Crash, Ends::Any][self.draw(3)],
            fixed => fixed,
        };
        let mut parts = Vec::new();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let epoch = shard.epoch.take().expect("opened above");
            let (closed, result) = epoch.close(&mut shard.tasks);
            result.unwrap();
            parts.push(closed.part(number as u32, &shard.plan, &[]));
            // Where `Any` is left it means neither: the checkpoint is given up, and what it froze is dirty again.
            let mut verdict = if ends == Ends::Any { Verdict::Abort } else { Verdict::Confirm(&closed.files) };
            shard.tasks.iter_mut().for_each(|task| task.states(&mut verdict));
        }
        if ends == Ends::Crash {
            let plan = &self.shards[0].plan;
            let manifest = Manifest {
                format_version: FORMAT_VERSION,
                job: "trial".into(),
                epoch: barrier.epoch,
                created_ms: 0,
                graph_fingerprint: plan.fingerprint(),
                graph: plan.to_string(),
                shards: self.shards.len() as u32,
                parts,
            };
            let positions = self.shards.iter().map(|shard| shard.script.passed_at.get()).collect();
            self.records.iter().for_each(|record| record.cut_after(self.epoch));
            self.begin(Some(Arc::new(manifest)), Some(positions));
        }
    }
}
