//! Strangers: each is dropped for what it is, and friends get in meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use millstream_network::session::{Session, Step};
use millstream_network::{Cause, Listener, Secret, Trust};

use super::{LONG, call, facts, listener, meet, other_secret, secret, timed, trust, wait_for};

fn connect(listener: &Listener) -> TcpStream {
    let socket = TcpStream::connect(listener.address()).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// Reads until the listener closes: all that a stranger learns.
fn learnt(socket: &mut TcpStream) -> Vec<u8> {
    let mut learnt = Vec::new();
    // A reset is an end too; what came before it counts.
    let _ = socket.read_to_end(&mut learnt);
    learnt
}

/// Plays a dialler by hand over a socket, keeping what it sent, until it ends or is cut.
fn play(mut session: Session, socket: &mut TcpStream) -> (Vec<Vec<u8>>, Option<Step>) {
    let mut sent = Vec::new();
    loop {
        match session.step() {
            Step::Send(bytes) => {
                socket.write_all(&bytes).unwrap();
                sent.push(bytes);
            }
            Step::NeedMore => {
                let mut bytes = vec![0; session.wants()];
                match socket.read(&mut bytes) {
                    Ok(count) if count > 0 => drop(session.receive(&bytes[..count])),
                    _ => return (sent, None),
                }
            }
            end => return (sent, Some(end)),
        }
    }
}

fn dialler(secret: &Secret) -> Session {
    Session::dial(secret, &facts(), &b"me"[..], [5; 32], None).unwrap()
}

/// What a friend may need, whatever strangers do.
const FRIEND_MAX: Duration = Duration::from_millis(100);

/// A friend gets in, and in time: within a few tries, since the machine that runs the tests may have other things to do.
fn a_friend_gets_in(listener: &Listener, trust: &Trust) {
    let mut took = (0..5).map(|_| timed(|| meet(listener, trust)).1);
    let fastest = took.find(|took| *took < FRIEND_MAX);
    assert!(fastest.is_some(), "five friends needed more than {FRIEND_MAX:?} each");
}

#[test]
fn a_port_scanner_is_counted_and_learns_nothing() {
    let (trust, listener) = (trust(), listener(&trust()));
    for _ in 0..50 {
        drop(connect(&listener));
    }
    let mut half = connect(&listener);
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(learnt(&mut half), b"");
    wait_for(&listener, Cause::Closed, 51);
    a_friend_gets_in(&listener, &trust);
}

#[test]
fn other_protocols_are_known_by_their_first_byte_and_get_no_answer() {
    let (trust, listener) = (trust(), listener(&trust()));
    let openings: [&[u8]; 6] =
        [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"SSH-2.0-x\r\n", b"\0", b"MILL", b"\xff"];
    for (number, opening) in openings.iter().enumerate() {
        let mut socket = connect(&listener);
        socket.write_all(opening).unwrap();
        assert_eq!(learnt(&mut socket), b"", "{opening:?}");
        wait_for(&listener, Cause::NotOurProtocol, number as u64 + 1);
    }
    a_friend_gets_in(&listener, &trust);
}

#[test]
fn a_stranger_with_a_wrong_secret_learns_a_random_number_and_no_more() {
    let listener = listener(&trust());
    let mut socket = connect(&listener);
    let wrong = other_secret().secret.unwrap();
    let (_, end) = play(dialler(&wrong), &mut socket);
    assert_eq!(end, Some(Step::Refused(millstream_network::Refusal::WrongSecret)));
    assert_eq!(learnt(&mut socket), b"");
    wait_for(&listener, Cause::WrongSecret, 1);
}

#[test]
fn a_replayed_handshake_is_refused() {
    let (trust, listener) = (trust(), listener(&trust()));
    let (sent, end) = play(dialler(&secret()), &mut connect(&listener));
    assert!(matches!(end, Some(Step::Done(_))), "the first time it is right");
    // All of it at once, and message by message: the listener's nonce is another one.
    let mut socket = connect(&listener);
    socket.write_all(&sent.concat()).unwrap();
    let told = learnt(&mut socket);
    wait_for(&listener, Cause::WrongSecret, 1);
    let mut socket = connect(&listener);
    for message in &sent {
        // The second may find the listener gone.
        let _ = socket.write_all(message);
        let _ = socket.read(&mut [0; 44]);
    }
    wait_for(&listener, Cause::WrongSecret, 2);
    for secret in ["clicks", "0123abcd", "graph"] {
        assert!(!told.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "it was told {secret}");
    }
    assert_eq!(listener.figures().accepted, 1);
    a_friend_gets_in(&listener, &trust);
}

#[test]
fn a_listener_does_not_prove_anything_to_its_own_reflection() {
    // Who does not know the secret asks one listener what to answer to the other.
    let (first, second) = (listener(&trust()), listener(&trust()));
    let mut sockets = [connect(&first), connect(&second)];
    let mut hello = [0; 44];
    let Step::Send(real) = dialler(&secret()).step() else { panic!("a dialler begins") };
    hello.copy_from_slice(&real);
    sockets[0].write_all(&hello).unwrap();
    let mut challenge = [0; 44];
    sockets[0].read_exact(&mut challenge).unwrap();
    // The challenge of the first, as if it were a hello to the second, and unchanged.
    let mut as_hello = challenge;
    as_hello[6] = hello[6];
    sockets[1].write_all(&as_hello).unwrap();
    let mut answer = [0; 44];
    sockets[1].read_exact(&mut answer).unwrap();
    answer[6] = 3; // "here is my proof"
    sockets[0].write_all(&answer).unwrap();
    assert_eq!(learnt(&mut sockets[0]).len(), 13, "a refusal");
    wait_for(&first, Cause::WrongSecret, 1);
    let mut socket = connect(&second);
    socket.write_all(&challenge).unwrap();
    assert_eq!(learnt(&mut socket), b"");
    wait_for(&second, Cause::OutOfOrder, 1);
}

#[test]
fn oversized_undersized_and_unknown_messages_are_refused_by_their_headers() {
    let (trust, listener) = (trust(), listener(&trust()));
    let header = |version: u16, kind: u8, bytes: u32| {
        let mut header = b"MILH".to_vec();
        header.extend(version.to_le_bytes());
        header.extend([kind, 0]);
        header.extend(bytes.to_le_bytes());
        header
    };
    let send = |bytes: &[u8]| {
        let mut socket = connect(&listener);
        socket.write_all(bytes).unwrap();
        learnt(&mut socket)
    };
    assert_eq!(send(&header(1, 1, u32::MAX)), b"");
    assert_eq!(send(&header(1, 1, 33)), b"");
    wait_for(&listener, Cause::TooLong, 2);
    assert_eq!(send(&header(1, 1, 31)), b"");
    assert_eq!(send(&header(1, 99, 32)), b"");
    wait_for(&listener, Cause::NotOurProtocol, 2);
    assert_eq!(send(&header(1, 5, 100)), b"");
    wait_for(&listener, Cause::OutOfOrder, 1);
    // Another version is told which one is spoken here, so that its owner knows.
    assert_eq!(send(&header(2, 1, 1_000))[..6], *b"MILH\x01\0");
    wait_for(&listener, Cause::Version, 1);
    a_friend_gets_in(&listener, &trust);
}

#[test]
fn a_handshake_cut_anywhere_is_dropped() {
    let (trust, listener) = (trust(), listener(&trust()));
    let mut dropped = 0;
    for cut in (0..44).step_by(7).chain([43]) {
        let Step::Send(hello) = dialler(&secret()).step() else { panic!("a dialler begins") };
        let mut socket = connect(&listener);
        socket.write_all(&hello[..cut]).unwrap();
        drop(socket);
        dropped += 1;
        wait_for(&listener, Cause::Closed, dropped);
    }
    a_friend_gets_in(&listener, &trust);
}

#[test]
fn the_slow_are_dropped_in_time_however_busy_they_seem() {
    let trust = Trust { handshake_max: Duration::from_millis(150), ..trust() };
    let listener = listener(&trust);
    let Step::Send(hello) = dialler(&secret()).step() else { panic!("a dialler begins") };
    // One that says nothing, and one that says a byte at a time, for longer than it may.
    let mut silent = connect(&listener);
    let mut slow = connect(&listener);
    let ((), took) = timed(|| {
        for byte in &hello {
            if slow.write_all(&[*byte]).is_err() {
                break;
            }
            (0..10).for_each(|_| super::nap());
        }
        wait_for(&listener, Cause::TimedOut, 2);
    });
    assert!(took < LONG, "{took:?}");
    assert_eq!(learnt(&mut slow), b"");
    assert_eq!(learnt(&mut silent), b"");
    assert_eq!(listener.figures().pending, 0);
    a_friend_gets_in(&listener, &trust);
}

#[test]
fn random_bytes_are_dropped() {
    let (trust, listener) = (trust(), listener(&trust()));
    let mut state = 7_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for length in 1..100 {
        let mut socket = connect(&listener);
        let bytes: Vec<u8> = (0..length).map(|_| random()).collect();
        // It may be gone before all is sent.
        let _ = socket.write_all(&bytes);
        assert_eq!(learnt(&mut socket), b"");
    }
    assert_eq!(listener.figures().accepted, 0);
    a_friend_gets_in(&listener, &trust);
}

#[test]
fn a_thousand_at_once_do_not_keep_a_friend_out() {
    let trust = trust();
    let listener = listener(&trust);
    // All from the friend's own address: those that say nothing, and those that say hello and then nothing.
    let Step::Send(hello) = dialler(&secret()).step() else { panic!("a dialler begins") };
    let mut crowd = Vec::new();
    for number in 0..1_000 {
        let mut socket = connect(&listener);
        if number % 2 == 0 {
            // It may have been dropped already.
            let _ = socket.write_all(&hello);
        }
        crowd.push(socket);
        if number % 250 == 125 {
            a_friend_gets_in(&listener, &trust);
        }
    }
    a_friend_gets_in(&listener, &trust);
    let figures = wait_for(&listener, Cause::Crowded, 1_000 - 256);
    assert!(figures.accepted >= 5, "{figures:?}");
    assert!(figures.pending <= 256, "{figures:?}");
    drop(crowd);
    wait_for(&listener, Cause::Closed, 1);
    a_friend_gets_in(&listener, &trust);
}

#[test]
fn a_flood_while_it_goes_on_keeps_no_friend_out() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let trust = trust();
    let listener = listener(&trust);
    let (address, stop) = (listener.address(), Arc::new(AtomicBool::new(false)));
    let flood = super::beside({
        let stop = stop.clone();
        move || {
            let (mut crowd, mut count) = (std::collections::VecDeque::new(), 0_u64);
            while !stop.load(Relaxed) {
                let Ok(mut socket) = TcpStream::connect(address) else { continue };
                // Good beginnings, half ones and none.
                let Step::Send(hello) = dialler(&secret()).step() else { panic!("a dialler begins") };
                let _ = socket.write_all([&hello[..], &hello[..20], b"nonsense", b""][count as usize % 4]);
                crowd.push_back(socket);
                count += 1;
                if crowd.len() > 200 {
                    crowd.pop_front();
                }
            }
            count
        }
    });
    let friends = (0..30).map(|_| timed(|| call(&listener, &trust).expect("a friend gets in"))).map(|(_, took)| took);
    let mut took: Vec<Duration> = friends.collect();
    took.sort();
    stop.store(true, Relaxed);
    let count = flood.join().unwrap();
    // Of thirty the machine may have kept some waiting, and not most.
    assert!(took[20] < FRIEND_MAX, "friends took {took:?} beside {count} strangers");
    assert!(count > 30, "that was no flood: {count}");
}
