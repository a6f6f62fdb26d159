//! Friends meet, and those who are none are told what to do about it.

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::time::Duration;

use millstream_network::{Carried, Cause, DialError, Facts, Listener, Refusal, Trust, dial};

use super::{LONG, call, facts, listener, meet, other_secret, timed, trust};

#[test]
fn two_that_agree_meet_and_the_greeting_and_the_reply_arrive() {
    let (trust, listener) = (trust(), listener(&trust()));
    listener.set_reply(b"you are shard 7 of 8");
    let (dialled, accepted) = meet(&listener, &trust);
    assert_eq!(accepted.greeting, b"worker 3");
    assert!(accepted.from.ip().is_loopback());
    assert_eq!(dialled.reply(), b"you are shard 7 of 8");
    assert_eq!(dialled.peer(), listener.address().to_string());
    assert_eq!(accepted.connection.peer(), accepted.from.to_string());
    assert_eq!((dialled.carried(), accepted.connection.carried()), (Carried::Plain, Carried::Plain));
    assert_eq!(listener.figures().accepted, 1);
    assert_eq!(listener.figures().all_dropped().count(), 0);
}

#[test]
fn a_socket_is_ready_for_a_link_and_nothing_behind_the_handshake_was_read() {
    let (trust, listener) = (trust(), listener(&trust()));
    let (dialled, accepted) = meet(&listener, &trust);
    let sockets = [dialled.into_socket(), accepted.connection.into_socket()].map(socket2::Socket::from);
    for socket in &sockets {
        assert!(!socket.nonblocking().unwrap());
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket2::SockRef::from(&socket.as_fd()).send_buffer_size().unwrap() > 0);
    }
    // Whoever speaks first, and at once, is heard from the first byte.
    for (from, to) in [(0, 1), (1, 0)] {
        assert_eq!(sockets[from].send(b"frame").unwrap(), 5);
        let mut heard = [0; 5];
        std::io::Read::read_exact(&mut &sockets[to], &mut heard).unwrap();
        assert_eq!(&heard, b"frame");
    }
}

#[test]
fn large_facts_greetings_and_replies_go_through() {
    let (trust, facts) = (trust(), facts().with("assignment", "x".repeat(30_000)));
    let listener = Listener::bind("127.0.0.1:0", trust.clone(), facts.clone()).unwrap();
    listener.set_reply(&[7; 64 << 10]);
    let dialled = dial(&listener.address().to_string(), &trust, &facts, &[9; 4 << 10], LONG).unwrap();
    assert_eq!(dialled.reply(), &[7; 64 << 10]);
    assert_eq!(listener.accepted().recv_timeout(LONG).unwrap().greeting, &[9; 4 << 10]);
    let error = dial(&listener.address().to_string(), &trust, &facts, &[9; (4 << 10) + 1], LONG).unwrap_err();
    assert!(matches!(&error, DialError::Disagreed { refusal: Refusal::TooLong { .. }, .. }), "{error}");
}

#[test]
fn ipv6_and_names_are_addresses_too() {
    let trust = trust();
    for host in ["[::1]", "localhost", "127.0.0.1"] {
        let listener = Listener::bind(&format!("{host}:0"), trust.clone(), facts()).unwrap();
        let address = format!("{host}:{}", listener.address().port());
        dial(&address, &trust, &facts(), b"", LONG).unwrap();
        assert!(listener.accepted().recv_timeout(LONG).is_ok(), "{address}");
    }
    // One socket for both families, and the caller's address told in its own.
    let listener = Listener::bind("[::]:0", trust.clone(), facts()).unwrap();
    dial(&format!("127.0.0.1:{}", listener.address().port()), &trust, &facts(), b"", LONG).unwrap();
    assert!(listener.accepted().recv_timeout(LONG).unwrap().from.ip().to_canonical().is_loopback());
}

#[test]
fn a_wrong_secret_is_final_and_tells_nothing_of_the_facts() {
    let listener = listener(&trust());
    let error = call(&listener, &other_secret()).unwrap_err();
    assert!(matches!(&error, DialError::Disagreed { refusal: Refusal::WrongSecret, .. }), "{error}");
    assert!(!error.retryable());
    let told = error.to_string();
    assert!(told.contains("same file") && !told.contains("clicks"), "{told}");
    assert_eq!(super::wait_for(&listener, Cause::WrongSecret, 1).accepted, 0);
    assert_eq!(listener.dropped()[0].refusal, Some(Refusal::WrongSecret));
}

#[test]
fn who_differs_is_told_in_what_and_is_let_in_once_it_agrees() {
    let (trust, listener) = (trust(), listener(&trust()));
    let address = listener.address().to_string();
    let newer = facts().with("version", "2");
    let error = dial(&address, &trust, &newer, b"", LONG).unwrap_err();
    let DialError::Disagreed { refusal, .. } = &error else { panic!("{error}") };
    let (name, ours, theirs) = ("version".to_owned(), "2".to_owned(), "1".to_owned());
    assert_eq!(*refusal, Refusal::Differs { name: name.clone(), ours: ours.clone(), theirs: theirs.clone() });
    assert!(!error.retryable());
    super::wait_for(&listener, Cause::Differs, 1);
    // The other end sees the same with the sides changed.
    assert_eq!(listener.dropped()[0].refusal, Some(Refusal::Differs { name, ours: theirs, theirs: ours }));
    let error = dial(&address, &trust, &newer.clone().with("extra", "x").with("version", "1"), b"", LONG).unwrap_err();
    assert!(error.to_string().contains("(not stated)"), "{error}");
    listener.set_facts(newer.clone());
    dial(&address, &trust, &newer, b"", LONG).unwrap();
}

#[test]
fn processes_of_one_host_need_no_secret_and_others_do() {
    let alone = Trust::of_one_host();
    let listener = listener(&alone);
    meet(&listener, &alone);
    // No secret is not any secret.
    let error = call(&listener, &trust()).unwrap_err();
    assert!(matches!(&error, DialError::Disagreed { refusal: Refusal::WrongSecret, .. }), "{error}");
    for open in ["0.0.0.0:0", "[::]:0"] {
        let told = Listener::bind(open, alone.clone(), facts()).unwrap_err().to_string();
        assert!(told.contains("cluster secret") && told.contains(open), "{told}");
    }
    let error = dial("192.0.2.1:1", &alone, &facts(), b"", LONG).unwrap_err();
    assert!(matches!(error, DialError::NoSecret { .. }) && !error.retryable(), "{error}");
}

#[test]
fn an_address_in_use_or_not_of_this_host_or_unknown_is_refused_in_words() {
    let first = listener(&trust());
    let bind = |address: &str| Listener::bind(address, trust(), Facts::new()).unwrap_err();
    let error = bind(&first.address().to_string());
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("{} is in use", first.address())), "{error}");
    let error = bind("192.0.2.1:0").to_string();
    assert!(error.contains("no address of this host"), "{error}");
    for wrong in ["nowhere.invalid:1", "no port at all", "127.0.0.1:99999"] {
        let error = bind(wrong).to_string();
        assert!(error.contains(wrong) && error.contains("resolved"), "{error}");
        let error = dial(wrong, &trust(), &facts(), b"", LONG).unwrap_err();
        assert!(matches!(error, DialError::Resolve { .. }) && error.to_string().contains(wrong), "{error}");
    }
}

#[test]
fn nobody_there_and_nobody_answering_are_worth_another_try() {
    let gone = listener(&trust()).address().to_string();
    let error = dial(&gone, &trust(), &facts(), b"", LONG).unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }) && error.retryable(), "{error}");
    assert!(error.to_string().contains(&gone), "{error}");

    // The kernel takes the connection, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (error, took) = timed(|| dial(&address, &trust(), &facts(), b"", Duration::from_millis(80)).unwrap_err());
    assert!(matches!(error, DialError::TimedOut { .. }) && error.retryable(), "{error}");
    assert!(took >= Duration::from_millis(80) && took < LONG, "{took:?}");

    let closing = super::beside(move || drop(silent.accept().unwrap()));
    closing.join().unwrap(); // takes the connection above, then there is nobody
    let error = dial(&address, &trust(), &facts(), b"", LONG).unwrap_err();
    assert!(error.retryable(), "{error}");
}

#[test]
fn a_name_of_many_addresses_is_tried_until_one_answers() {
    // `localhost` is both 127.0.0.1 and ::1 where IPv6 is known by it; only one of them is listened at.
    let (trust, listener) = (trust(), listener(&trust()));
    dial(&format!("localhost:{}", listener.address().port()), &trust, &facts(), b"", LONG).unwrap();
}

#[test]
fn a_listener_that_is_dropped_frees_its_address_and_lets_connections_live() {
    let (trust, listener) = (trust(), listener(&trust()));
    let address = listener.address().to_string();
    let (dialled, accepted) = meet(&listener, &trust);
    drop(listener);
    let again = Listener::bind(&address, trust.clone(), facts()).unwrap();
    meet(&again, &trust);
    let (mut sender, _receiver) = dialled.into_channel().unwrap();
    let (_sender, mut receiver) = accepted.connection.into_channel().unwrap();
    sender.send(b"still here").unwrap();
    assert_eq!(receiver.receive(LONG).unwrap(), millstream_network::Received::Message(b"still here".to_vec()));
}

#[test]
fn many_friends_of_one_host_at_once_all_get_in() {
    let listener = std::sync::Arc::new(listener(&trust()));
    let friends: Vec<_> = (0..200)
        .map(|_| {
            let listener = listener.clone();
            super::beside(move || call(&listener, &trust()).map(drop))
        })
        .collect();
    let refused: Vec<DialError> = friends.into_iter().filter_map(|friend| friend.join().unwrap().err()).collect();
    assert!(refused.is_empty(), "{} of 200, such as {:?}; {:?}", refused.len(), refused[0], listener.figures());
    assert_eq!((0..200).filter(|_| listener.accepted().recv_timeout(LONG).is_ok()).count(), 200);
    assert_eq!(listener.figures().accepted, 200);
}
