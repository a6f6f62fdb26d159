//! Links: two ends over a pair of sockets, driven in turn by one thread or each by its own.

#![expect(unsafe_code, reason = "poll and socketpairs of small buffers have no safe call in std")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use millstream_network::frame::{Control, HEADER_BYTES, Route};
use millstream_network::lane::BUFFERS_PER_LANE;
use millstream_network::link::intake::Fault;
use millstream_network::link::outgo::Outgo;
use millstream_network::{
    Doorbell, LaneConfig, LinkConfig, LinkError, LinkFigures, Links, PAYLOAD_BYTES_MAX, Peer, Receiver, SendZc, Sender,
    lane,
};
use proptest::prelude::*;

#[path = "../examples/fuzz_frames.rs"]
mod fuzz_frames;

const MS: u64 = 1_000_000;

/// What a shard has of one link: the peer to be handed to its links, and the ends of the lanes that exchange and merge hold.
struct End {
    peer: Peer,
    exchange: Vec<Sender>,
    merge: Vec<Receiver>,
}

fn bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new().expect("a descriptor is left"))
}

fn end(here: u16, there: u16, socket: OwnedFd, bell: &Arc<Doorbell>, edges: u32, buffers: usize) -> End {
    let lay = |edge, from_shard, to_shard| {
        let route = Route { edge, from_shard, to_shard };
        lane(LaneConfig { route, buffers }, Arc::clone(bell), Arc::clone(bell))
    };
    let (exchange, outgoing) = (0..edges).map(|edge| lay(edge, here, there)).unzip();
    let (incoming, merge) = (0..edges).map(|edge| lay(edge, there, here)).unzip();
    let peer = Peer { shard: there, name: format!("process-{there}:7{there:03}"), socket, outgoing, incoming };
    End { peer, exchange, merge }
}

/// A shard with links, in the hands of one thread.
struct Shard {
    links: Links,
    bell: Arc<Doorbell>,
    /// By peer, then by edge.
    exchange: Vec<Vec<Sender>>,
    merge: Vec<Vec<Receiver>>,
}

fn shard(here: u16, bell: Arc<Doorbell>, ends: Vec<End>, config: LinkConfig) -> Shard {
    let (mut peers, mut exchange, mut merge) = (Vec::new(), Vec::new(), Vec::new());
    for end in ends {
        peers.push(end.peer);
        exchange.push(end.exchange);
        merge.push(end.merge);
    }
    let links = Links::new(here, bell.fd(), peers, config).expect("the kernel has rings");
    Shard { links, bell, exchange, merge }
}

fn tcp() -> (OwnedFd, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    (near.into(), listener.accept().expect("it was connected to").0.into())
}

fn unix() -> (OwnedFd, OwnedFd) {
    let (near, far) = UnixStream::pair().expect("descriptors are left");
    (near.into(), far.into())
}

/// Shards 0 and 1, over one link.
fn two(sockets: (OwnedFd, OwnedFd), edges: u32, buffers: usize, config: LinkConfig) -> (Shard, Shard) {
    let (bell_a, bell_b) = (bell(), bell());
    let a = end(0, 1, sockets.0, &bell_a, edges, buffers);
    let b = end(1, 0, sockets.1, &bell_b, edges, buffers);
    (shard(0, bell_a, vec![a], config), shard(1, bell_b, vec![b], config))
}

/// Shard 0 with a link whose other end is a bare socket.
fn one_and_bare(edges: u32, buffers: usize) -> (Shard, UnixStream) {
    let bell_a = bell();
    let (near, far) = unix();
    let near = end(0, 1, near, &bell_a, edges, buffers);
    (shard(0, bell_a, vec![near], LinkConfig::default()), UnixStream::from(far))
}

/// Turns both until neither moves, and what the one sent has reached the other: a busy kernel may take its time.
fn settle(now_ns: u64, a: &mut Shard, b: &mut Shard) {
    let mut still = 0;
    while still < 3 {
        let moved =
            a.links.tick(now_ns).expect("shard 0's links stand") | b.links.tick(now_ns).expect("shard 1's links stand");
        let ([a, b], there) = ([a.links.figures(), b.links.figures()], |from: &LinkFigures, to: &LinkFigures| {
            from.bytes_out == to.bytes_in
        });
        still = if moved || !there(&a, &b) || !there(&b, &a) { 0 } else { still + 1 };
    }
}

/// Turns a shard until a link fails.
fn until_it_fails(shard: &mut Shard) -> LinkError {
    let turn = |_| {
        std::thread::yield_now();
        shard.links.tick(0).err()
    };
    (0..10_000_000).find_map(turn).expect("the peer is gone, which is noticed")
}

fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    number ^ number >> 29
}

fn byte(seed: u64, at: usize) -> u8 {
    (mix(seed) >> (at % 8 * 8)) as u8 ^ (at >> 3) as u8
}

/// A frame to be sent: which edge, how long, which controls.
#[derive(Clone, Copy, Debug)]
struct Plan {
    edge: usize,
    bytes: usize,
    controls: u8,
}

impl Plan {
    /// Sends the frame, if a buffer is left.
    fn send(&self, seed: u64, exchange: &mut [Sender]) -> bool {
        let Some(mut buffer) = exchange[self.edge].acquire() else { return false };
        for (at, place) in buffer.spare_mut()[..self.bytes].iter_mut().enumerate() {
            *place = byte(seed, at);
        }
        buffer.advance(self.bytes);
        buffer.header_mut().set_count(self.bytes as u32 / 3);
        buffer.header_mut().set_mark(seed);
        for control in self.controls(seed) {
            buffer.header_mut().put(control);
        }
        exchange[self.edge].send(buffer);
        true
    }

    fn controls(&self, seed: u64) -> impl Iterator<Item = Control> {
        let bits = self.controls;
        [Control::Watermark(seed as i64 - 9), Control::Idle, Control::Barrier(seed), Control::End]
            .into_iter()
            .enumerate()
            .filter(move |(bit, _)| bits >> bit & 1 != 0)
            .map(|(_, control)| control)
    }

    /// Receives the frame and holds it against what was sent.
    fn check(&self, seed: u64, merge: &mut [Receiver]) -> bool {
        let Some(buffer) = merge[self.edge].receive() else { return false };
        let header = buffer.header();
        assert_eq!(
            (buffer.len(), header.count(), header.mark()),
            (self.bytes, self.bytes as u32 / 3, seed),
            "{self:?}"
        );
        assert!(header.controls().eq(self.controls(seed)));
        assert!(buffer.payload().iter().enumerate().all(|(at, found)| *found == byte(seed, at)), "{self:?}");
        merge[self.edge].release(buffer);
        true
    }
}

fn plan(edges: usize) -> impl Strategy<Value = Plan> {
    let bytes = prop_oneof![Just(0), 1..200_usize, 60_000..=PAYLOAD_BYTES_MAX, Just(PAYLOAD_BYTES_MAX)];
    (0..edges, bytes, 0..16_u8).prop_map(|(edge, bytes, controls)| Plan { edge, bytes, controls })
}

/// Sends the frames of `plans`, each edge's in order, as far as buffers are left.
fn send_some(plans: &[Plan], sent: &mut [usize], exchange: &mut [Sender]) {
    for (edge, sent) in sent.iter_mut().enumerate() {
        let mut of_edge = plans.iter().enumerate().filter(|(_, plan)| plan.edge == edge).skip(*sent);
        while let Some((seed, plan)) = of_edge.next()
            && plan.send(seed as u64, exchange)
        {
            *sent += 1;
        }
    }
}

fn check_some(plans: &[Plan], checked: &mut [usize], merge: &mut [Receiver], at_most: usize) {
    for (edge, checked) in checked.iter_mut().enumerate() {
        let of_edge = plans.iter().enumerate().filter(|(_, plan)| plan.edge == edge).skip(*checked);
        for (seed, plan) in of_edge.take(at_most) {
            if !plan.check(seed as u64, merge) {
                break;
            }
            *checked += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Both ways at once, over several edges, with readers that lag: each lane brings what was sent, in order, and every
    /// buffer comes home.
    #[test]
    fn frames_arrive_in_order_and_byte_for_byte(
        there in prop::collection::vec(plan(3), 0..60),
        back in prop::collection::vec(plan(3), 0..60),
        buffers in 1_usize..6,
        over_tcp in any::<bool>(),
        zc in any::<bool>(),
        lag in 1_usize..4,
    ) {
        let config = LinkConfig { send_zc: if zc { SendZc::On } else { SendZc::Off }, ..LinkConfig::default() };
        let (mut a, mut b) = two(if over_tcp { tcp() } else { unix() }, 3, buffers, config);
        let mut sent = [[0; 3]; 2];
        let mut checked = [[0; 3]; 2];
        let all = there.len() + back.len();
        let mut turns = 0_u64;
        while checked.iter().flatten().sum::<usize>() < all {
            send_some(&there, &mut sent[0], &mut a.exchange[0]);
            send_some(&back, &mut sent[1], &mut b.exchange[0]);
            a.links.tick(turns).expect("the peer is well");
            b.links.tick(turns).expect("the peer is well");
            check_some(&there, &mut checked[0], &mut b.merge[0], lag);
            check_some(&back, &mut checked[1], &mut a.merge[0], lag);
            turns += 1;
            prop_assert!(turns < 100_000_000, "nothing moves any more: {sent:?} sent, {checked:?} checked");
        }
        // What the kernel keeps until it is acknowledged comes home too, and the last grants arrive.
        settle(turns, &mut a, &mut b);
        while a.exchange[0].iter_mut().chain(&mut b.exchange[0]).any(|lane| lane.available() < buffers) {
            settle(turns, &mut a, &mut b);
            turns += 1;
            prop_assert!(turns < 200_000_000, "a buffer does not come home");
        }
        for (shard, out, back_in) in [(&a, there.len(), back.len()), (&b, back.len(), there.len())] {
            let figures = shard.links.figures();
            prop_assert_eq!((figures.frames_out, figures.frames_in), (out as u64, back_in as u64));
            prop_assert_eq!(figures.payload_bytes_copied, 0);
            prop_assert!(zc || figures.zc_copied + figures.zc_uncopied == 0);
        }
        let (a, b) = (a.links.figures(), b.links.figures());
        prop_assert_eq!((a.bytes_out, b.bytes_out), (b.bytes_in, a.bytes_in));
    }
}

#[test]
fn a_full_edge_holds_up_no_other() {
    let (mut a, mut b) = two(tcp(), 2, 3, LinkConfig::default());
    let stuck = Plan { edge: 0, bytes: PAYLOAD_BYTES_MAX, controls: 0 };
    let moving = Plan { edge: 1, ..stuck };
    settle(0, &mut a, &mut b); // grants first
    // The receiver of edge 0 takes its frames in hand and never lets go.
    let mut in_hand = Vec::new();
    let mut seeds = 0..;
    for seed in 0..400 {
        while stuck.send(seeds.next().expect("without end"), &mut a.exchange[0]) {}
        assert!(moving.send(seed, &mut a.exchange[0]), "edge 1 has room for frame {seed}");
        settle(seed, &mut a, &mut b);
        in_hand.extend(b.merge[0][0].receive());
        assert!(moving.check(seed, &mut b.merge[0]), "frame {seed} of edge 1 came");
        settle(seed, &mut a, &mut b);
    }
    assert_eq!(in_hand.len(), 3, "as many as the receiving pool has");
    assert_eq!(a.exchange[0][0].available(), 0, "and as many wait at the sender");
    assert_eq!(a.links.figures().credit_stalls, [1, 0]);
    // Once they are let go, those that waited come, in order.
    for buffer in in_hand {
        b.merge[0][0].release(buffer);
    }
    settle(400, &mut a, &mut b);
    assert_eq!(b.merge[0][0].len(), 3);
    assert_eq!(b.merge[0][0].receive().map(|buffer| buffer.header().sequence()), Some(3));
}

/// The bytes of valid frames from shard 1 to shard 0, one an edge, by the sending half itself. The peer must have granted one
/// frame an edge.
fn valid_frames(edges: u32) -> Vec<u8> {
    let lay = |edge| {
        let route = Route { edge, from_shard: 1, to_shard: 0 };
        lane(LaneConfig { route, buffers: 2 }, bell(), bell())
    };
    let (mut exchange, outgoing): (Vec<Sender>, Vec<Receiver>) = (0..edges).map(lay).unzip();
    let mut outgo = Outgo::new(1, 0, outgoing, true);
    for edge in 0..edges {
        outgo.grant(edge, 2, 2).expect("two of two");
        assert!(Plan { edge: edge as usize, bytes: 1000, controls: 5 }.send(7, &mut exchange));
    }
    assert!(outgo.gather(16));
    outgo.parts().flatten().copied().collect()
}

/// Hands bytes to a link from a bare socket; what comes of it. Both sides' grants were exchanged before.
fn hand(bytes: &[u8], then_close: bool) -> (Result<bool, LinkError>, Shard) {
    let (mut a, mut bare) = one_and_bare(2, 2);
    a.links.tick(0).expect("nothing came yet");
    let mut grants = [0; 2 * HEADER_BYTES];
    bare.read_exact(&mut grants).expect("a grant for each edge");
    bare.write_all(bytes).expect("the link reads");
    if then_close {
        drop(bare);
        let answer = (0..1000).map(|now| a.links.tick(now)).find(Result::is_err);
        return (answer.unwrap_or(Ok(false)), a);
    }
    let answer = (0..3).map(|now| a.links.tick(now)).find(Result::is_err);
    (answer.unwrap_or(Ok(false)), a)
}

#[test]
fn a_peer_that_dies_is_told_from_one_that_leaves() {
    let frames = valid_frames(2);
    for cut in [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 500, frames.len()] {
        let (answer, mut shard) = hand(&frames[..cut], true);
        let error = answer.expect_err("it closed and had not said goodbye");
        assert!(matches!(&error, LinkError::Closed { peer, shard: 1 } if peer == "process-1:7001"), "{error}");
        assert!(error.to_string().contains("process-1:7001") && error.to_string().contains("without a goodbye"));
        let whole = [cut >= HEADER_BYTES + 1000, cut == frames.len()];
        assert_eq!(
            [0, 1].map(|edge| shard.merge[0][edge].receive().is_some()),
            whole,
            "whole frames arrived, and no other"
        );
    }
    let (answer, _) = hand(&frames, false);
    assert!(answer.is_ok());
}

#[test]
fn a_reset_is_told_at_once() {
    let (near, far) = tcp();
    let bell_a = bell();
    let near = end(0, 1, near, &bell_a, 1, 2);
    let mut a = shard(0, bell_a, vec![near], LinkConfig::default());
    a.links.tick(0).expect("nothing came yet");
    // What is unread at a close makes it a reset: here, the first grant.
    while a.links.figures().bytes_out == 0 {
        a.links.tick(0).expect("nothing came yet");
    }
    drop(far);
    let error = until_it_fails(&mut a);
    assert!(matches!(error, LinkError::Reset { .. }) && error.peer() == "process-1:7001", "{error}");
}

#[test]
fn what_no_peer_sends_is_refused_with_a_reason() {
    let frames = valid_frames(2);
    let refusals = |bytes: &[u8]| match hand(bytes, false).0 {
        Err(LinkError::BadFrame { peer, shard: 1, source }) => {
            assert_eq!(peer, "process-1:7001");
            source
        }
        other => panic!("{other:?}"),
    };
    // What a stranger might say, or another program on that port.
    let stranger = refusals(b"GET / HTTP/1.1\r\nHost: 10.0.0.7:7001\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n");
    assert!(stranger.to_string().contains("it is no frame"), "{stranger}");
    // One changed bit anywhere in a frame.
    for at in (0..HEADER_BYTES).chain([HEADER_BYTES, HEADER_BYTES + 999]) {
        let mut damaged = frames.clone();
        damaged[at] ^= 1 << (at % 8);
        let fault = refusals(&damaged);
        match at {
            0..4 => assert!(matches!(fault, Fault::Frame(_)), "{at}: {fault}"),
            12..16 => assert!(matches!(fault, Fault::Route { from_shard: 1, to_shard: 0, .. }), "{at}: {fault}"),
            24..32 => assert!(matches!(fault, Fault::Sequence { edge: Some(0), expected: 0, .. }), "{at}: {fault}"),
            64.. => assert!(matches!(fault, Fault::Checksum { edge: 0, sequence: 0, .. }), "{at}: {fault}"),
            _ => {}
        }
    }
    // The same frame again, which is also the way to overspend.
    let again: Vec<u8> = [&frames[..], &frames[..]].concat();
    assert_eq!(refusals(&again), Fault::Sequence { edge: Some(0), expected: 1, found: 0 });
}

#[test]
fn a_silent_peer_is_told_and_a_pause_of_our_own_is_not_its_silence() {
    let (mut a, bare) = one_and_bare(1, 2);
    for now_ms in (0..=3_000).step_by(100) {
        a.links.tick(now_ms * MS).expect("not yet silent for longer than three seconds");
        assert!(a.links.wake_at_ns() <= (now_ms + 500) * MS, "a turn is wanted for each heartbeat");
    }
    let error = a.links.tick(3_001 * MS).expect_err("it has said nothing");
    assert!(
        matches!(&error, LinkError::Silent { peer, shard: 1, silent_ms: 3_001, silence_max_ms: 3_000 } if peer == "process-1:7001")
    );
    assert!(error.to_string().contains("failure_timeout"), "{error}");
    // It was told that we are alive: one grant, then a heartbeat every half second.
    let mut heard = [0; 16 * HEADER_BYTES];
    let heard = (&bare).read(&mut heard).expect("something was said") / HEADER_BYTES;
    assert_eq!(heard, 1 + 6);

    let (mut a, _bare) = one_and_bare(1, 2);
    a.links.tick(0).expect("the first turn");
    a.links.tick(10_000 * MS).expect("we stood still, not the peer");
    a.links.tick(12_000 * MS).expect("two seconds of silence");
    for now_ms in (12_000..=15_000).step_by(100) {
        let _ = a.links.tick(now_ms * MS);
    }
    assert!(matches!(a.links.tick(15_100 * MS), Err(LinkError::Silent { .. })));
}

#[test]
fn heartbeats_keep_an_idle_link_alive() {
    let (mut a, mut b) = two(tcp(), 1, 2, LinkConfig::default());
    for now_ms in (0..20_000).step_by(250) {
        settle(now_ms * MS, &mut a, &mut b);
    }
    let figures = a.links.figures();
    assert!((30..=45).contains(&figures.sends), "one grant, then a heartbeat every 500 ms: {figures:?}");
    assert!(figures.longest_silence_ns <= 750 * MS, "{figures:?}");
}

#[test]
fn a_goodbye_ends_a_link_in_order_with_all_that_was_sent() {
    for (first, sockets) in [(0, tcp()), (1, tcp()), (0, unix()), (1, unix())] {
        let (mut a, mut b) = two(sockets, 1, 2, LinkConfig::default());
        let plan = Plan { edge: 0, bytes: 5_000, controls: 8 };
        let (mut turns, mut checked) = (0, 0);
        for seed in 0..2 {
            assert!(plan.send(seed, &mut a.exchange[0]));
        }
        if first == 0 {
            a.links.goodbye()
        } else {
            b.links.goodbye()
        }
        while !(a.links.is_finished() && b.links.is_finished()) {
            // The one says goodbye late; until then the other goes on granting credit.
            if turns == 50 {
                a.links.goodbye();
                b.links.goodbye();
            }
            a.links.tick(turns * MS).expect("an orderly end is no failure");
            b.links.tick(turns * MS).expect("an orderly end is no failure");
            checked += u64::from(plan.check(checked, &mut b.merge[0]));
            turns += 1;
            assert!(turns < 100_000_000, "both have said goodbye");
        }
        assert_eq!(checked, 2);
        // Whoever is dropped first, and however long the other goes on.
        drop(a);
        b.links.tick(u64::MAX).expect("a link that has ended does not fail");
        assert_eq!(b.links.wake_at_ns(), u64::MAX);
    }
}

#[test]
fn three_peers_share_one_ring() {
    const FRAMES: usize = 200;
    let bells: Vec<_> = (0..4).map(|_| bell()).collect();
    let mut ends: Vec<Vec<End>> = (0..4).map(|_| Vec::new()).collect();
    for there in 1..4_u16 {
        let (near, far) = tcp();
        ends[0].push(end(0, there, near, &bells[0], 2, 4));
        ends[usize::from(there)].push(end(there, 0, far, &bells[usize::from(there)], 2, 4));
    }
    let mut shards: Vec<Shard> = ends
        .into_iter()
        .zip(bells)
        .enumerate()
        .map(|(here, (ends, bell))| shard(here as u16, bell, ends, LinkConfig::default()))
        .collect();
    let plans: Vec<Plan> = (0..FRAMES)
        .map(|frame| Plan { edge: frame % 2, bytes: mix(frame as u64) as usize % PAYLOAD_BYTES_MAX, controls: 0 })
        .collect();
    let (mut sent, mut checked) = ([[0; 2]; 6], [[0; 2]; 6]);
    let mut turns = 0;
    while checked.iter().flatten().sum::<usize>() < 6 * FRAMES {
        let (hub, others) = shards.split_first_mut().expect("four");
        for (at, other) in others.iter_mut().enumerate() {
            send_some(&plans, &mut sent[at], &mut hub.exchange[at]);
            send_some(&plans, &mut sent[3 + at], &mut other.exchange[0]);
            other.links.tick(turns).expect("the hub is well");
            check_some(&plans, &mut checked[at], &mut other.merge[0], 2);
            check_some(&plans, &mut checked[3 + at], &mut hub.merge[at], 2);
        }
        hub.links.tick(turns).expect("all are well");
        turns += 1;
        assert!(turns < 100_000_000, "{checked:?}");
    }
    assert_eq!(shards[0].links.figures().frames_in, 3 * FRAMES as u64);
    assert_eq!(shards[0].links.figures().payload_bytes_copied, 0);
}

/// Whether the doorbell has been rung, waiting for at most so long.
fn rung_within(bell: &Doorbell, at_most: Duration) -> bool {
    let mut poll = libc::pollfd { fd: bell.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, valid for the call.
    let ready = unsafe { libc::poll(&mut poll, 1, at_most.as_millis() as i32) };
    assert!(ready >= 0, "{}", std::io::Error::last_os_error());
    if ready > 0 {
        bell.wait().expect("the doorbell is open");
    }
    ready > 0
}

#[test]
fn an_idle_link_sleeps_and_a_frame_wakes_it() {
    let (mut a, mut b) = two(tcp(), 2, 4, LinkConfig::default());
    settle(0, &mut a, &mut b);
    assert!(!b.links.arm(), "nothing is to be done");
    assert!(!rung_within(&b.bell, Duration::from_millis(200)), "nothing happens, and nobody is woken");
    let plan = Plan { edge: 1, bytes: 70, controls: 1 };
    assert!(plan.send(3, &mut a.exchange[0]));
    assert!(a.links.arm(), "a frame waits to be sent");
    a.links.disarm();
    a.links.tick(0).expect("the peer is well");
    assert!(rung_within(&b.bell, Duration::from_secs(60)), "the frame wakes it");
    b.links.disarm();
    while !plan.check(3, &mut b.merge[0]) {
        b.links.tick(0).expect("the peer is well");
    }
    // At work it is not written to.
    assert!(plan.send(4, &mut a.exchange[0]));
    while a.links.tick(0).expect("the peer is well") {}
    while !plan.check(4, &mut b.merge[0]) {
        b.links.tick(0).expect("the peer is well");
    }
    assert!(!rung_within(&b.bell, Duration::ZERO));
    // What came between the last turn and the arming is found by the last look, or rings.
    assert!(plan.send(5, &mut a.exchange[0]));
    while a.links.tick(0).expect("the peer is well") {}
    assert!(b.links.arm() || rung_within(&b.bell, Duration::from_secs(60)));
    b.links.disarm();
}

/// Ends the process when its thread panics: the other end would wait for it.
struct NobodyWaitsForUs;

impl Drop for NobodyWaitsForUs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("one end of a link panicked, as said above");
            std::process::abort();
        }
    }
}

/// Turns a shard's links until `done` has what it wants, asleep whenever nothing moves. No clock: neither heartbeat nor silence.
fn run(shard: &mut Shard, mut done: impl FnMut(&mut Shard) -> bool) {
    let mut sleeps = 0_u64;
    while !done(shard) {
        if shard.links.tick(0).expect("the peer is well") {
            continue;
        }
        shard.bell.announce();
        if !shard.links.arm() && !done(shard) {
            assert!(rung_within(&shard.bell, Duration::from_secs(60)), "asleep for a minute: a wake-up was lost");
            sleeps += 1;
        }
        shard.links.disarm();
        shard.bell.retract();
    }
    assert!(sleeps < u64::MAX);
}

#[test]
fn two_threads_sleep_and_wake_each_other() {
    const TURNS: u64 = 2_000;
    let (bell_a, bell_b) = (bell(), bell());
    let sockets = tcp();
    let a = end(0, 1, sockets.0, &bell_a, 1, 2);
    let b = end(1, 0, sockets.1, &bell_b, 1, 2);
    let plan = Plan { edge: 0, bytes: 100, controls: 1 };
    std::thread::scope(|threads| {
        threads.spawn(move || {
            let _guard = NobodyWaitsForUs;
            let mut b = shard(1, bell_b, vec![b], LinkConfig::default());
            let mut answered = 0;
            run(&mut b, |b| {
                if plan.check(answered, &mut b.merge[0]) {
                    assert!(plan.send(answered, &mut b.exchange[0]));
                    answered += 1;
                    if answered == TURNS {
                        b.links.goodbye();
                    }
                }
                b.links.is_finished()
            });
        });
        let _guard = NobodyWaitsForUs;
        let mut a = shard(0, bell_a, vec![a], LinkConfig::default());
        let mut round_trips = Vec::new();
        let (mut asked, mut since) = (0, now_ns());
        run(&mut a, |a| {
            if asked > 0 && asked <= TURNS && plan.check(asked - 1, &mut a.merge[0]) {
                round_trips.push(now_ns() - since);
                if asked == TURNS {
                    a.links.goodbye();
                    asked += 1;
                }
            }
            if asked < TURNS && round_trips.len() as u64 == asked {
                since = now_ns();
                assert!(plan.send(asked, &mut a.exchange[0]));
                asked += 1;
            }
            a.links.is_finished()
        });
        round_trips.sort_unstable();
        println!("round trip of parked threads: p50 {} µs", round_trips[round_trips.len() / 2] / 1_000);
        assert_eq!(round_trips.len() as u64, TURNS);
    });
}

/// The time, for what is printed.
fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills the timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[test]
fn two_threads_stream_both_ways() {
    const FRAMES: usize = 3_000;
    let (bell_a, bell_b) = (bell(), bell());
    let sockets = tcp();
    let a = end(0, 1, sockets.0, &bell_a, 2, BUFFERS_PER_LANE);
    let b = end(1, 0, sockets.1, &bell_b, 2, BUFFERS_PER_LANE);
    let plans: Vec<Plan> = (0..FRAMES)
        .map(|frame| {
            let bytes = if frame % 4 == 0 { PAYLOAD_BYTES_MAX } else { mix(frame as u64) as usize % 3_000 };
            Plan { edge: frame % 3 / 2, bytes, controls: (frame % 16) as u8 }
        })
        .collect();
    let stream = |here: u16, bell: Arc<Doorbell>, end: End| {
        let _guard = NobodyWaitsForUs;
        let mut shard = shard(here, bell, vec![end], LinkConfig::default());
        let (mut sent, mut checked) = ([0; 2], [0; 2]);
        run(&mut shard, |shard| {
            send_some(&plans, &mut sent, &mut shard.exchange[0]);
            check_some(&plans, &mut checked, &mut shard.merge[0], 8);
            if checked.iter().sum::<usize>() + sent.iter().sum::<usize>() == 2 * FRAMES {
                shard.links.goodbye();
            }
            shard.links.is_finished()
        });
        assert_eq!((sent.iter().sum::<usize>(), checked.iter().sum::<usize>()), (FRAMES, FRAMES));
        assert_eq!(shard.links.figures().payload_bytes_copied, 0);
    };
    std::thread::scope(|threads| {
        threads.spawn(|| stream(1, bell_b, b));
        stream(0, bell_a, a);
    });
}

#[test]
fn links_are_dropped_in_the_middle_of_everything() {
    for send_zc in [SendZc::Off, SendZc::On] {
        for turns in 0..12 {
            let config = LinkConfig { send_zc, ..LinkConfig::default() };
            let (mut a, mut b) = two(tcp(), 2, 40, config);
            settle(0, &mut a, &mut b);
            // More than the sockets hold, so that a send stays under way, and half a frame is open at the receiver.
            for seed in 0..80 {
                assert!(
                    Plan { edge: seed % 2, bytes: PAYLOAD_BYTES_MAX, controls: 0 }
                        .send(seed as u64, &mut a.exchange[0])
                );
            }
            for _ in 0..turns {
                a.links.tick(0).expect("the peer is well");
                if turns % 3 == 1 {
                    b.links.tick(0).expect("the peer is well");
                }
            }
            let Shard { links, exchange, merge, .. } = a;
            if turns % 2 == 0 {
                // The memory of the lanes goes with the links.
                drop((exchange, merge));
                drop(links);
            } else {
                drop(links);
                drop((exchange, merge));
            }
            let error = until_it_fails(&mut b);
            assert!(matches!(error, LinkError::Closed { .. } | LinkError::Reset { .. }), "{error}");
        }
    }
}

#[test]
fn measured_sends_without_a_copy_stop_where_the_kernel_copies() {
    let (mut a, mut b) = two(tcp(), 1, 8, LinkConfig { send_zc: SendZc::Measured, ..LinkConfig::default() });
    let plan = Plan { edge: 0, bytes: PAYLOAD_BYTES_MAX, controls: 0 };
    let (mut sent, mut checked) = (0, 0);
    while checked < 200 {
        sent += u64::from(plan.send(sent, &mut a.exchange[0]));
        a.links.tick(sent).expect("the peer is well");
        b.links.tick(sent).expect("the peer is well");
        checked += u64::from(plan.check(checked, &mut b.merge[0]));
    }
    let figures = a.links.figures();
    // Over loopback it copies, and after the trials they end.
    assert!(figures.zc_copied >= 16 && figures.zc_copied < 100, "{figures:?}");
}

#[test]
fn a_socket_without_zero_copy_gets_its_bytes_all_the_same() {
    let (mut a, mut b) = two(unix(), 1, 3, LinkConfig { send_zc: SendZc::On, ..LinkConfig::default() });
    let plan = Plan { edge: 0, bytes: PAYLOAD_BYTES_MAX, controls: 0 };
    for seed in 0..20 {
        assert!(plan.send(seed, &mut a.exchange[0]));
        settle(0, &mut a, &mut b);
        assert!(plan.check(seed, &mut b.merge[0]));
    }
    assert_eq!(a.links.figures().zc_uncopied + a.links.figures().zc_copied, 0);
}

#[test]
#[should_panic(expected = "an outgoing lane leads from here to the peer, and its place is its edge")]
fn lanes_that_lead_elsewhere_are_a_bug() {
    let bell_a = bell();
    let (near, _far) = unix();
    let mut near = end(0, 1, near, &bell_a, 2, 2);
    near.peer.outgoing.swap(0, 1);
    drop(shard(0, bell_a, vec![near], LinkConfig::default()));
}

#[test]
fn the_other_direction_of_a_peer_that_only_listens_stays_open() {
    // A peer that shuts its direction without a goodbye is gone, whatever it may still read.
    let (mut a, bare) = one_and_bare(1, 2);
    a.links.tick(0).expect("nothing came yet");
    bare.shutdown(Shutdown::Write).expect("it is open");
    let error = until_it_fails(&mut a);
    assert!(matches!(error, LinkError::Closed { .. }), "{error}");
}

#[test]
fn damaged_streams_are_refused_and_bring_nothing_that_was_not_sent() {
    let met = fuzz_frames::fuzz(5, |met| met.streams < 400);
    assert!((100..400).contains(&met.refused), "{met:?}");
}

#[test]
fn a_slow_reader_is_not_sent_more_than_it_reads_in_time() {
    const BUFFERS: usize = BUFFERS_PER_LANE;
    let (mut a, mut b) = two(tcp(), 1, BUFFERS, LinkConfig::default());
    let plan = Plan { edge: 0, bytes: 100, controls: 0 };
    let (mut sent, mut now_ns) = (0, 0);
    let mut waiting = Vec::new();
    for read in 0..100 {
        while plan.send(sent, &mut a.exchange[0]) {
            sent += 1;
        }
        settle(now_ns, &mut a, &mut b);
        waiting.push(b.merge[0][0].len());
        // Four milliseconds a frame: five in twenty.
        now_ns += 4 * MS;
        assert!(plan.check(read, &mut b.merge[0]));
        settle(now_ns, &mut a, &mut b);
    }
    assert_eq!(waiting[0], BUFFERS, "as long as nothing is known of its pace, it gets what there is");
    assert!(waiting[50..].iter().all(|waiting| (2..=6).contains(waiting)), "{waiting:?}");
}

#[test]
fn a_link_that_failed_brings_nothing_more() {
    let mut frames = valid_frames(2);
    // The first frame's payload is damaged; the second is whole.
    frames[HEADER_BYTES + 10] ^= 1;
    let (answer, mut a) = hand(&frames, false);
    assert!(matches!(answer, Err(LinkError::BadFrame { .. })));
    for now in 0..100 {
        let _ = a.links.tick(now);
    }
    assert!(a.merge[0].iter_mut().all(|lane| lane.receive().is_none()));
}
