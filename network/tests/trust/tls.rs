//! The same inside TLS: friends meet, and who is between them is found.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use millstream_network::{Carried, Cause, Connection, DialError, Received, Refusal, Trust, dial};

use super::{LONG, beside, call, facts, listener, meet, other_secret, timed, trust, wait_for};

fn encrypted() -> Trust {
    trust().with_tls()
}

fn sockets() -> [TcpStream; 2] {
    let (trust, listener) = (encrypted(), listener(&encrypted()));
    listener.set_reply(&[3; 64 << 10]);
    let (dialled, accepted) = meet(&listener, &trust);
    assert_eq!(dialled.reply(), &[3; 64 << 10]);
    for connection in [&dialled, &accepted.connection] {
        assert_ne!(connection.carried(), Carried::Plain);
    }
    [dialled, accepted.connection].map(|connection| TcpStream::from(connection.into_socket()))
}

#[test]
fn sixty_four_mebibytes_go_both_ways_at_once() {
    const BYTES: usize = 64 << 20;
    let speak = |mut socket: TcpStream, step: u8| {
        move || {
            let piece: Vec<u8> = (0..1 << 16).map(|at| (at as u8).wrapping_mul(step)).collect();
            (0..BYTES / piece.len()).for_each(|_| socket.write_all(&piece).unwrap());
            socket.shutdown(Shutdown::Write).unwrap();
        }
    };
    let listen = |mut socket: TcpStream, step: u8| {
        move || {
            let (mut piece, mut heard) = (vec![0; 1 << 16], 0_usize);
            loop {
                let bytes = socket.read(&mut piece).unwrap();
                if bytes == 0 {
                    return heard;
                }
                let wrong =
                    piece[..bytes].iter().zip(heard..).find(|(byte, at)| **byte != (*at as u8).wrapping_mul(step));
                assert_eq!(wrong, None);
                heard += bytes;
            }
        }
    };
    let [near, far] = sockets();
    let threads = [beside(speak(near.try_clone().unwrap(), 3)), beside(speak(far.try_clone().unwrap(), 7))];
    let heard = [beside(listen(far, 3)), beside(listen(near, 7))];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(heard.map(|thread| thread.join().unwrap()), [BYTES; 2]);
}

#[test]
fn an_end_in_one_direction_leaves_the_other_open_and_a_close_ends_both() {
    let [mut near, mut far] = sockets();
    near.write_all(b"that is all").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "that is all");
    far.write_all(b"not for me").unwrap();
    let mut heard = [0; 10];
    near.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"not for me");
    drop(far);
    assert_eq!(near.read(&mut heard).unwrap_or(0), 0);

    // A process that dies in the middle: the other end hears of it, though it only listens, or only speaks.
    let [near, mut far] = sockets();
    drop(near);
    assert_eq!(far.read(&mut heard).unwrap_or(0), 0);
    let [near, mut far] = sockets();
    drop(near);
    let piece = vec![0; 1 << 16];
    assert!((0..10_000).any(|_| far.write_all(&piece).is_err()), "a gigabyte was written to nobody");
}

#[test]
fn who_takes_nothing_is_sent_nothing() {
    let [near, mut far] = sockets();
    far.set_nonblocking(true).unwrap();
    let piece = vec![0; 1 << 16];
    let mut sent = 0_usize;
    // Until nothing has moved for a while: all that is between the two is full.
    let mut still = 0;
    while still < 100 {
        match far.write(&piece) {
            Ok(bytes) => (sent, still) = (sent + bytes, 0),
            Err(_) => {
                super::nap();
                still += 1;
            }
        }
        assert!(sent < 64 << 20, "{sent} bytes are kept for one who takes none");
    }
    assert!(sent > 0);
    drop(near);
}

#[test]
fn a_channel_inside_tls_is_a_channel() {
    let (trust, listener) = (encrypted(), listener(&encrypted()));
    let (dialled, accepted) = meet(&listener, &trust);
    let (mut sender, mut hears) = dialled.into_channel().unwrap();
    let (mut far, mut far_hears) = accepted.connection.into_channel().unwrap();
    sender.send(b"order").unwrap();
    assert_eq!(far_hears.receive(LONG).unwrap(), Received::Message(b"order".to_vec()));
    far.send(&vec![5; 3 << 20]).unwrap();
    assert_eq!(hears.receive(LONG).unwrap(), Received::Message(vec![5; 3 << 20]));
    sender.close();
    assert!(matches!(far_hears.receive(LONG), Err(millstream_network::ChannelError::Closed)));
    drop((far, far_hears));
    let (heard, took) = timed(|| hears.receive(LONG));
    assert!(matches!(heard, Err(millstream_network::ChannelError::Reset)), "{heard:?}");
    assert!(took < LONG / 4);
}

#[test]
fn secrets_and_facts_are_judged_as_without_it() {
    let listener = listener(&encrypted());
    let refused = |trust: &Trust, facts| match dial(&listener.address().to_string(), trust, &facts, b"", LONG) {
        Err(DialError::Disagreed { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&other_secret().with_tls(), facts()), Refusal::WrongSecret);
    assert!(matches!(refused(&encrypted(), facts().with("version", "2")), Refusal::Differs { .. }));
    wait_for(&listener, Cause::WrongSecret, 1);
    wait_for(&listener, Cause::Differs, 1);
}

#[test]
fn one_end_with_tls_and_one_without_are_told_so() {
    let with = listener(&encrypted());
    let error = call(&with, &trust()).unwrap_err();
    assert!(matches!(&error, DialError::Disagreed { refusal: Refusal::TlsExpected, .. }), "{error}");
    assert!(error.to_string().contains("switch it on here"), "{error}");
    wait_for(&with, Cause::Tls, 1);
    let without = listener(&trust());
    let error = call(&without, &encrypted()).unwrap_err();
    assert!(error.to_string().contains("TLS switched off"), "{error}");
    wait_for(&without, Cause::NotOurProtocol, 1);
}

/// Opens TLS to both ends and passes on what they say: it knows all of it, save the secret.
#[test]
fn somebody_in_between_with_certificates_of_its_own_is_found() {
    let listener = listener(&encrypted());
    let (between, target) = (TcpListener::bind("127.0.0.1:0").unwrap(), listener.address().to_string());
    let address = between.local_addr().unwrap().to_string();
    let spy = beside(move || {
        let (victim, _) = between.accept().unwrap();
        super::between::relay(victim, TcpStream::connect(target).unwrap())
    });
    let error = dial(&address, &encrypted(), &facts(), b"", LONG).unwrap_err();
    assert!(matches!(&error, DialError::Disagreed { refusal: Refusal::WrongSecret, .. }), "{error}");
    let seen = spy.join().unwrap();
    assert!(seen.starts_with(b"MILH"), "it has read along, and got no further: {seen:?}");
    wait_for(&listener, Cause::WrongSecret, 1);
    assert_eq!(listener.figures().accepted, 0);
}

/// The bytes as they are, passed on by somebody who only passes them on: a proxy is no crime.
#[test]
fn a_proxy_that_alters_nothing_is_let_be() {
    let listener = listener(&encrypted());
    let (between, target) = (TcpListener::bind("127.0.0.1:0").unwrap(), listener.address().to_string());
    let address = between.local_addr().unwrap().to_string();
    let proxy = beside(move || {
        let (near, _) = between.accept().unwrap();
        let far = TcpStream::connect(target).unwrap();
        let pass = |mut from: TcpStream, mut to: TcpStream| {
            move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            }
        };
        let back = beside(pass(far.try_clone().unwrap(), near.try_clone().unwrap()));
        pass(near, far)();
        back.join().unwrap();
    });
    let connection: Connection = dial(&address, &encrypted(), &facts(), b"", LONG).unwrap();
    drop((connection, listener.accepted().recv_timeout(LONG).unwrap()));
    proxy.join().unwrap();
}

#[test]
fn strangers_that_speak_tls_or_pretend_to_are_dropped() {
    let trust = Trust { handshake_max: Duration::from_millis(200), ..encrypted() };
    let listener = listener(&trust);
    for opening in
        [&b"\x16\x03\x01\xff\xff"[..], b"\x16\x03\x01\x00\x04nope", b"\x16nonsense at once", b"GET / HTTP/1.1\r\n"]
    {
        let mut socket = TcpStream::connect(listener.address()).unwrap();
        socket.write_all(opening).unwrap();
        // It is told by an alert, by nothing, or by an end; in time.
        socket.set_read_timeout(Some(LONG)).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    assert!(listener.figures().dropped(Cause::Tls) >= 2, "{:?}", listener.figures());
    wait_for(&listener, Cause::NotOurProtocol, 1);
    // One that opens TLS well, and then says nothing.
    let spy = super::between::open(TcpStream::connect(listener.address()).unwrap());
    wait_for(&listener, Cause::TimedOut, 1);
    drop(spy);
    assert_eq!(listener.figures().pending, 0);
    meet(&listener, &trust);
}
