//! The raw exchange of 64 KiB buffers between two threads over loopback TCP: links against hand-written loops on io_uring.
//!
//! Both threads are pinned and poll. The sender touches every line of a buffer, the receiver sums every word. All contestants
//! take turns; a run in which another program had one of the cores does not count. A ratio is to the best hand-written loop of
//! the same round: a virtual machine's cores come together and part within minutes, and figures with them.
//!
//! Of the hand-written loops, those with an exact receive put each payload where it can be used in place, as links do. Those
//! with slices take the stream in whatever pieces the kernel has: the most a loop can move, and of no use to a reader of
//! whole rows. None of them computes a checksum; links do, at both ends, unless told not to.
//!
//! `cargo bench -p millstream-benches --bench exchange_links -- ROUNDS [ONLY…]`: only contestants whose names have one of these parts.

#![expect(unsafe_code, reason = "the hand-written loops are what one writes without this crate")]
#![expect(clippy::disallowed_methods, reason = "a bench asks for the time")]
#![allow(clippy::print_stdout, missing_docs)]

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, types};
use millstream_network::frame::Route;
use millstream_network::lane::BUFFERS_PER_LANE;
use millstream_network::{BUFFER_BYTES, Doorbell, LaneConfig, LinkConfig, Links, PAYLOAD_BYTES_MAX, Peer, lane, probe};

const WARM: Duration = Duration::from_millis(40);
const MEASURED: Duration = Duration::from_millis(80);

/// A run counts if its two threads, which never sleep, had their cores to themselves for this part of the time.
const UNDISTURBED: f64 = 0.97;
/// So many runs for one that counts; on a machine busier than that, those that there are have to do.
const TRIES_MAX: usize = 12;

/// What the process has used of its cores.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills the timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn pin(index: usize) {
    let core = probe::cpuset()[index];
    // SAFETY: the set is zeroed, which is the empty set, and outlives the call; `core` is one the kernel itself named.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0, "core {core} is in the cpuset");
    }
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let far = listener.accept().expect("it was connected to").0;
    for socket in [&near, &far] {
        socket.set_nodelay(true).expect("it is TCP");
    }
    (near, far)
}

/// What the two threads share.
struct Run {
    stop: AtomicBool,
    received: AtomicU64,
}

/// Runs both; the part of the time in which they had their cores, and bytes a second.
fn measure(send: impl FnOnce(&Run, TcpStream) + Send, receive: impl FnOnce(&Run, TcpStream) + Send) -> (f64, f64) {
    let run = Run { stop: AtomicBool::new(false), received: AtomicU64::new(0) };
    let (near, far) = tcp();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            pin(0);
            send(&run, near);
        });
        threads.spawn(|| {
            pin(1);
            receive(&run, far);
        });
        std::thread::sleep(WARM);
        let (from, used, at) = (run.received.load(Ordering::Relaxed), cpu_time(), Instant::now());
        std::thread::sleep(MEASURED);
        let bytes = run.received.load(Ordering::Relaxed) - from;
        let (used, seconds) = (cpu_time() - used, at.elapsed().as_secs_f64());
        run.stop.store(true, Ordering::Relaxed);
        (used.as_secs_f64() / seconds / 2.0, bytes as f64 / seconds)
    })
}

fn touch(payload: &mut [u8], number: u64) {
    for line in payload.chunks_exact_mut(64) {
        line[..8].copy_from_slice(&number.to_le_bytes());
    }
}

fn sum(payload: &[u8]) {
    let words = payload.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight")));
    black_box(words.fold(0, u64::wrapping_add));
}

fn links(config: LinkConfig, buffers: usize) -> (f64, f64) {
    let side = move |here: u16, there: u16, socket: TcpStream| {
        let bell = Arc::new(Doorbell::new().expect("a descriptor is left"));
        let lay = |from_shard, to_shard| {
            let route = Route { edge: 0, from_shard, to_shard };
            lane(LaneConfig { route, buffers }, Arc::clone(&bell), Arc::clone(&bell))
        };
        let ((exchange, outgoing), (incoming, merge)) = (lay(here, there), lay(there, here));
        let peer = Peer {
            shard: there,
            name: String::new(),
            socket: socket.into(),
            outgoing: vec![outgoing],
            incoming: vec![incoming],
        };
        let links = Links::new(here, bell.fd(), vec![peer], config).expect("the kernel has rings");
        (links, exchange, merge, bell)
    };
    measure(
        move |run, socket| {
            let (mut links, mut exchange, _merge, _bell) = side(0, 1, socket);
            let mut number = 0;
            while !run.stop.load(Ordering::Relaxed) {
                // As many as the loops by hand fill before they send.
                for _ in 0..BATCH {
                    let Some(mut buffer) = exchange.acquire() else { break };
                    touch(&mut buffer.spare_mut()[..PAYLOAD_BYTES_MAX], number);
                    buffer.advance(PAYLOAD_BYTES_MAX);
                    exchange.send(buffer);
                    number += 1;
                }
                if links.tick(0).is_err() {
                    break;
                }
            }
        },
        move |run, socket| {
            let (mut links, _exchange, mut merge, _bell) = side(1, 0, socket);
            while !run.stop.load(Ordering::Relaxed) {
                if links.tick(0).is_err() {
                    break;
                }
                while let Some(buffer) = merge.receive() {
                    sum(buffer.payload());
                    run.received.fetch_add(BUFFER_BYTES as u64, Ordering::Relaxed);
                    merge.release(buffer);
                }
            }
        },
    )
}

/// 2 MiB-aligned memory that is never freed: the loops are few.
fn memory(bytes: usize) -> *mut u8 {
    // SAFETY: an anonymous mapping of our own.
    unsafe {
        let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let at = libc::mmap(std::ptr::null_mut(), bytes, read_write, private, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        libc::madvise(at, bytes, libc::MADV_HUGEPAGE);
        std::ptr::write_bytes(at.cast::<u8>(), 0, bytes);
        at.cast()
    }
}

fn ring() -> IoUring {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all().setup_cqsize(4096);
    builder.build(256).expect("the kernel has rings")
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Bundle,
    Message,
    Single,
}

const SLOTS: usize = 32;
const BATCH: usize = 16;

fn turn(ring: &mut IoUring) {
    let queue = ring.submission();
    let needed = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
    drop(queue);
    if needed {
        let _ = ring.submit();
    }
}

/// A ring of provided buffers over `count` of `bytes` each.
struct Provided {
    entries: *mut types::BufRingEntry,
    memory: *mut u8,
    bytes: usize,
    count: u16,
    tail: u16,
}

impl Provided {
    fn new(ring: &IoUring, group: u16, count: u16, bytes: usize) -> Provided {
        let entries = memory(usize::from(count).max(256) * 16).cast::<types::BufRingEntry>();
        // SAFETY: the mapping is never freed.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries as u64, count, group, 0).expect("it takes one")
        };
        Provided { entries, memory: memory(usize::from(count) * bytes), bytes, count, tail: 0 }
    }

    fn at(&self, id: u16) -> *mut u8 {
        // SAFETY: within the mapping.
        unsafe { self.memory.add(usize::from(id) * self.bytes) }
    }

    fn give(&mut self, id: u16) {
        // SAFETY: within the mapping, and the entry is not the kernel's before the tail passes it.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(self.tail & (self.count - 1)));
            entry.set_addr(self.at(id) as u64);
            entry.set_len(self.bytes as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the tail lies in the first entry.
        unsafe { (*types::BufRingEntry::tail(self.entries).cast::<AtomicU16>()).store(self.tail, Ordering::Release) };
    }
}

fn hand_send(how: How, run: &Run, socket: TcpStream) {
    let fd = socket.as_raw_fd();
    let mut ring = ring();
    ring.submitter().register_files(&[fd]).expect("one file");
    let fd = types::Fixed(0);
    let mut provided = Provided::new(&ring, 7, SLOTS as u16, BUFFER_BYTES);
    let mut free: Vec<u16> = (0..SLOTS as u16).collect();
    let mut queued: VecDeque<u16> = VecDeque::new();
    let (mut number, mut busy, mut sent) = (0, false, 0_usize);
    let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: integers and pointers, for all of which zero is a value.
    let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
    while !run.stop.load(Ordering::Relaxed) {
        if !busy {
            let want = if how == How::Single { 1 } else { BATCH };
            while queued.len() < want
                && let Some(id) = free.pop()
            {
                // SAFETY: the slot is ours while it is free.
                touch(unsafe { std::slice::from_raw_parts_mut(provided.at(id), BUFFER_BYTES) }, number);
                number += 1;
                if how == How::Bundle {
                    provided.give(id);
                }
                queued.push_back(id);
            }
            let entry = match how {
                How::Bundle => {
                    provided.publish();
                    opcode::SendBundle::new(fd, 7).flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build()
                }
                How::Message => {
                    let count = queued.len().min(BATCH);
                    for (at, id) in queued.iter().take(count).enumerate() {
                        parts[at] = libc::iovec { iov_base: provided.at(*id).cast(), iov_len: BUFFER_BYTES };
                    }
                    // SAFETY: what was sent of the first is within it.
                    parts[0].iov_base = unsafe { parts[0].iov_base.add(sent) };
                    parts[0].iov_len -= sent;
                    (message.msg_iov, message.msg_iovlen) = (parts.as_mut_ptr(), count);
                    opcode::SendMsg::new(fd, &raw const *message).flags(libc::MSG_NOSIGNAL as u32).build()
                }
                How::Single => {
                    // SAFETY: what was sent is within it.
                    let at = unsafe { provided.at(queued[0]).add(sent) };
                    opcode::Send::new(fd, at, (BUFFER_BYTES - sent) as u32)
                        .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                        .build()
                }
            };
            // SAFETY: the mapping is never freed, message and parts live as long as the ring is used.
            unsafe { ring.submission().push(&entry).expect("there is room") };
            busy = true;
        }
        turn(&mut ring);
        while let Some(entry) = ring.completion().next() {
            if entry.result() <= 0 {
                return;
            }
            busy = false;
            sent += entry.result() as usize;
            while sent >= BUFFER_BYTES {
                sent -= BUFFER_BYTES;
                free.push(queued.pop_front().expect("what was sent was queued"));
            }
        }
    }
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

/// Header, then exactly the payload.
fn hand_receive_exact(run: &Run, socket: TcpStream) {
    const HEADER: usize = 64;
    let mut ring = ring();
    ring.submitter().register_files(&[socket.as_raw_fd()]).expect("one file");
    let (slots, header) = (memory(SLOTS * BUFFER_BYTES), memory(4096));
    let (mut in_header, mut slot, mut busy) = (true, 0, false);
    while !run.stop.load(Ordering::Relaxed) {
        // SAFETY: within the mapping.
        let at = unsafe { slots.add(slot * BUFFER_BYTES) };
        if !busy {
            let (to, len) = if in_header { (header, HEADER) } else { (at, BUFFER_BYTES - HEADER) };
            let entry = opcode::Recv::new(types::Fixed(0), to, len as u32).flags(libc::MSG_WAITALL).build();
            // SAFETY: the mappings are never freed.
            unsafe { ring.submission().push(&entry).expect("there is room") };
            busy = true;
        }
        turn(&mut ring);
        while let Some(entry) = ring.completion().next() {
            if entry.result() <= 0 {
                return;
            }
            busy = false;
            if !in_header {
                // SAFETY: the kernel filled it and is done with it.
                sum(unsafe { std::slice::from_raw_parts(at, BUFFER_BYTES - HEADER) });
                run.received.fetch_add(BUFFER_BYTES as u64, Ordering::Relaxed);
                slot = (slot + 1) % SLOTS;
            }
            in_header = !in_header;
        }
    }
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

/// Slices of the stream as they come: fast, and good for nothing that must lie in one place.
fn hand_receive_slices(run: &Run, socket: TcpStream) {
    let mut ring = ring();
    ring.submitter().register_files(&[socket.as_raw_fd()]).expect("one file");
    let mut provided = Provided::new(&ring, 1, 64, 128 << 10);
    (0..64).for_each(|id| provided.give(id));
    provided.publish();
    let mut armed = false;
    while !run.stop.load(Ordering::Relaxed) {
        if !armed {
            let entry = opcode::RecvMulti::new(types::Fixed(0), 1).build();
            // SAFETY: the mappings are never freed.
            unsafe { ring.submission().push(&entry).expect("there is room") };
            armed = true;
        }
        turn(&mut ring);
        while let Some(entry) = ring.completion().next() {
            if entry.result() == 0 || (entry.result() < 0 && entry.result() != -libc::ENOBUFS) {
                return;
            }
            armed = cqueue::more(entry.flags());
            if let Some(id) = cqueue::buffer_select(entry.flags()) {
                // SAFETY: the kernel filled it and is done with it.
                sum(unsafe { std::slice::from_raw_parts(provided.at(id), entry.result() as usize) });
                run.received.fetch_add(entry.result() as u64, Ordering::Relaxed);
                provided.give(id);
                provided.publish();
            }
        }
    }
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

/// Name, whether written by hand, and a run.
type Contestant = (&'static str, bool, Box<dyn Fn() -> (f64, f64)>);

fn main() {
    let asked = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    // Without `--bench` this is a test of whether it runs.
    let rounds: usize = asked.unwrap_or(if std::env::args().any(|argument| argument == "--bench") { 9 } else { 1 });
    let unchecked = LinkConfig { check_crc: false, ..LinkConfig::default() };
    let hand = |how: How, receive: fn(&Run, TcpStream)| {
        move || measure(move |run, socket| hand_send(how, run, socket), receive)
    };
    let only: Vec<String> =
        std::env::args().skip(1).filter(|part| !part.starts_with('-') && part.parse::<usize>().is_err()).collect();
    let mut contestants: Vec<Contestant> = vec![
        ("SEND bundle of 16, exact receive", true, Box::new(hand(How::Bundle, hand_receive_exact))),
        ("SENDMSG of 16, exact receive", true, Box::new(hand(How::Message, hand_receive_exact))),
        ("one SEND each, exact receive", true, Box::new(hand(How::Single, hand_receive_exact))),
        ("SEND bundle of 16, slices", true, Box::new(hand(How::Bundle, hand_receive_slices))),
        ("SENDMSG of 16, slices", true, Box::new(hand(How::Message, hand_receive_slices))),
        ("links", false, Box::new(|| links(LinkConfig::default(), BUFFERS_PER_LANE))),
        ("links, 64 buffers", false, Box::new(|| links(LinkConfig::default(), 64))),
        ("links without checksums", false, Box::new(move || links(unchecked, BUFFERS_PER_LANE))),
        ("links without checksums, 64 buffers", false, Box::new(move || links(unchecked, 64))),
    ];
    contestants.retain(|(name, _, _)| only.is_empty() || only.iter().any(|part| name.contains(part)));
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    for _ in 0..rounds * TRIES_MAX {
        let round: Vec<Option<f64>> = contestants
            .iter()
            .map(|(_, _, contest)| {
                let (undisturbed, rate) = contest();
                (undisturbed >= UNDISTURBED).then_some(rate / 1e9)
            })
            .collect();
        let by_hand = round.iter().zip(&contestants).filter_map(|(rate, (_, by_hand, _))| rate.filter(|_| *by_hand));
        let best = by_hand.fold(f64::NAN, f64::max);
        for (at, rate) in round.iter().enumerate() {
            rates[at].extend(rate);
            ratios[at].extend(rate.map(|rate| rate / best).filter(|ratio| ratio.is_finite()));
        }
        if rates.iter().all(|rates| rates.len() >= rounds) {
            break;
        }
    }
    let median = |sorted: &Vec<f64>| sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    rates.iter_mut().chain(&mut ratios).for_each(|figures| figures.sort_by(f64::total_cmp));
    if rates.iter().any(Vec::is_empty) {
        println!("Other programs had a core in every run of those without a figure: try again on a quieter machine.");
    }
    println!("  GB/s  of the round's best by hand  (least to most, undisturbed runs)");
    for (at, (name, by_hand, _)) in contestants.iter().enumerate() {
        let (rate, ratio, count) = (median(&rates[at]), median(&ratios[at]), rates[at].len());
        let (least, most) = (rates[at].first().unwrap_or(&f64::NAN), rates[at].last().unwrap_or(&f64::NAN));
        println!(
            "{rate:6.2}  {ratio:5.2}  ({least:.2} to {most:.2}, {count})  {}{name}",
            if *by_hand { "by hand: " } else { "" }
        );
    }
}
