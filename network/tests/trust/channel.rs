//! What a channel carries, and what becomes of it when the other end stops, dies or sends what is no message.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use millstream_network::channel::{BadMessage, Decoded, Decoder, MESSAGE_BYTES_MAX, encode};
use millstream_network::{ChannelError, ChannelReceiver, ChannelSender, Received};
use proptest::prelude::*;

use super::{LONG, beside, listener, meet, timed, trust};

type Channel = (ChannelSender, ChannelReceiver);

fn channels() -> (Channel, Channel) {
    let (trust, listener) = (trust(), listener(&trust()));
    let (dialled, accepted) = meet(&listener, &trust);
    (dialled.into_channel().unwrap(), accepted.connection.into_channel().unwrap())
}

/// A channel's receiving half, and the bare socket at the other end of it.
fn receiver_and_socket() -> (Channel, TcpStream) {
    let (trust, listener) = (trust(), listener(&trust()));
    let (dialled, accepted) = meet(&listener, &trust);
    (dialled.into_channel().unwrap(), TcpStream::from(accepted.connection.into_socket()))
}

#[test]
fn messages_and_heartbeats_arrive_in_order_both_ways_from_two_threads() {
    let ((mut near, mut near_hears), (mut far, mut far_hears)) = channels();
    // Each end speaks from one thread and listens in another, all four at once.
    let speak = |mut sender: ChannelSender| {
        move || {
            for number in 0..2_000_u32 {
                sender.send(&number.to_le_bytes().repeat(number as usize % 50)).unwrap();
                if number % 100 == 0 {
                    sender.heartbeat().unwrap();
                }
            }
            sender.close();
        }
    };
    let listen = |mut receiver: ChannelReceiver| {
        move || {
            let (mut messages, mut heartbeats) = (0_u32, 0);
            loop {
                match receiver.receive(LONG) {
                    Ok(Received::Message(message)) => {
                        assert_eq!(message, messages.to_le_bytes().repeat(messages as usize % 50));
                        messages += 1;
                    }
                    Ok(Received::Heartbeat) => heartbeats += 1,
                    Err(ChannelError::Closed) => return (messages, heartbeats),
                    other => panic!("{other:?}"),
                }
            }
        }
    };
    near.send(b"").unwrap();
    far.heartbeat().unwrap();
    assert_eq!(far_hears.receive(LONG).unwrap(), Received::Message(Vec::new()));
    assert_eq!(near_hears.receive(LONG).unwrap(), Received::Heartbeat);
    let threads = [beside(speak(near)), beside(speak(far))];
    let heard = [beside(listen(near_hears)), beside(listen(far_hears))];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(heard.map(|thread| thread.join().unwrap()), [(2_000, 20); 2]);
}

#[test]
fn the_longest_message_goes_through_and_a_longer_one_harms_nothing() {
    let ((mut sender, _), (_other, mut receiver)) = channels();
    let longest = vec![0xA5; MESSAGE_BYTES_MAX];
    let heard = beside(move || (receiver.receive(LONG).unwrap(), receiver.receive(LONG).unwrap()));
    let error = sender.send(&vec![0; MESSAGE_BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(error, ChannelError::TooLong { .. }), "{error}");
    sender.send(&longest).unwrap();
    sender.send(b"after it").unwrap();
    let (first, second) = heard.join().unwrap();
    assert!(first == Received::Message(longest));
    assert_eq!(second, Received::Message(b"after it".to_vec()));
}

#[test]
fn nothing_is_an_answer_and_what_came_of_a_message_is_kept() {
    let ((_sender, mut receiver), mut socket) = receiver_and_socket();
    let (heard, took) = timed(|| receiver.receive(Duration::from_millis(30)).unwrap());
    assert_eq!(heard, Received::Nothing);
    assert!(took >= Duration::from_millis(30) && took < LONG, "{took:?}");
    assert_eq!(receiver.receive(Duration::ZERO).unwrap(), Received::Nothing);
    let message = encode(b"in two parts").unwrap();
    for cut in [1, 15, 16, 20, message.len() - 1] {
        socket.write_all(&message[..cut]).unwrap();
        assert_eq!(receiver.receive(Duration::from_millis(3)).unwrap(), Received::Nothing);
        socket.write_all(&message[cut..]).unwrap();
        assert_eq!(receiver.receive(LONG).unwrap(), Received::Message(b"in two parts".to_vec()));
    }
}

#[test]
fn an_end_without_a_goodbye_is_a_reset_and_is_seen_at_once() {
    // A sender that is dropped, a process that dies between messages, and one that dies within one.
    let ((sender, hears), (_far, mut far_hears)) = channels();
    drop((sender, hears));
    assert!(matches!(far_hears.receive(LONG), Err(ChannelError::Reset)));

    let ((mut sender, mut receiver), socket) = receiver_and_socket();
    drop(socket);
    let (heard, took) = timed(|| receiver.receive(LONG));
    assert!(matches!(heard, Err(ChannelError::Reset)), "{heard:?}");
    assert!(took < LONG / 4, "{took:?}");
    // The first may still go to the kernel; soon enough it says that nobody is there, and then for ever.
    let failed = (0..1_000).find_map(|_| sender.send(&[0; 4096]).err()).unwrap();
    assert!(matches!(failed, ChannelError::Reset), "{failed}");
    assert!(matches!(sender.heartbeat(), Err(ChannelError::Closed)));

    let ((_sender, mut receiver), mut socket) = receiver_and_socket();
    let message = encode(&[7; 1_000]).unwrap();
    socket.write_all(&message[..message.len() - 1]).unwrap();
    drop(socket);
    assert!(matches!(receiver.receive(LONG), Err(ChannelError::Reset)));
}

#[test]
fn all_that_was_sent_before_a_goodbye_arrives_and_the_goodbye_stays() {
    let ((mut sender, _hears), (_far, mut far_hears)) = channels();
    (0..100_u8).for_each(|number| sender.send(&[number]).unwrap());
    sender.close();
    (0..100_u8).for_each(|number| assert_eq!(far_hears.receive(LONG).unwrap(), Received::Message(vec![number])));
    for _ in 0..3 {
        assert!(matches!(far_hears.receive(LONG), Err(ChannelError::Closed)));
    }
}

#[test]
fn a_peer_that_takes_nothing_does_not_hold_the_sender_for_ever() {
    let ((mut sender, _receiver), socket) = receiver_and_socket();
    sender.set_patience(Duration::from_millis(50));
    let (failed, took) = timed(|| (0..1_000).find_map(|_| sender.send(&[0; 1 << 20]).err()).unwrap());
    assert!(matches!(failed, ChannelError::Stuck), "{failed}");
    assert!(took < LONG, "{took:?}");
    assert!(matches!(sender.send(b"behind half a message"), Err(ChannelError::Closed)));
    drop(socket);
}

#[test]
fn a_peer_that_takes_a_little_at_a_time_does_not_either() {
    let ((mut sender, _receiver), mut socket) = receiver_and_socket();
    sender.set_patience(Duration::from_millis(100));
    // Always some progress, and far less than a mebibyte a second.
    let (enough, stop) = std::sync::mpsc::channel::<()>();
    let drip = beside(move || {
        let mut piece = [0; 2_048];
        while stop.recv_timeout(Duration::from_millis(3)).is_err()
            && socket.read(&mut piece).is_ok_and(|bytes| bytes > 0)
        {}
    });
    let (failed, took) = timed(|| (0..100).find_map(|_| sender.send(&vec![0; 1 << 20]).err()));
    // 3 MiB or so fit into the socket's buffers, which drain slowly.
    assert!(matches!(failed, Some(ChannelError::Stuck)), "{failed:?}");
    assert!(took < LONG, "{took:?}");
    enough.send(()).unwrap();
    drip.join().unwrap();
}

#[test]
fn what_is_no_message_is_refused_for_ever() {
    let good = encode(b"good").unwrap();
    for at in 0..good.len() {
        let ((_sender, mut receiver), mut socket) = receiver_and_socket();
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        socket.write_all(&good).unwrap();
        socket.write_all(&bad).unwrap();
        socket.write_all(&good).unwrap();
        assert_eq!(receiver.receive(LONG).unwrap(), Received::Message(b"good".to_vec()));
        for _ in 0..2 {
            assert!(matches!(receiver.receive(LONG), Err(ChannelError::BadMessage { .. })), "byte {at}");
        }
    }
}

#[test]
fn a_length_is_not_believed_before_its_checksum_nor_beyond_its_limit() {
    let header = |bytes: u32, kind: u8, seal: bool| {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&bytes.to_le_bytes());
        header[4] = kind;
        let crc = if seal { crc32c::crc32c(&header[..12]) } else { 7 };
        header[12..].copy_from_slice(&crc.to_le_bytes());
        header
    };
    let refused = |bytes: &[u8]| {
        let mut decoder = Decoder::default();
        decoder.feed(bytes);
        decoder.decoded()
    };
    assert!(matches!(refused(&header(u32::MAX, 1, false)), Err(BadMessage(what)) if what.contains("checksum")));
    assert!(
        matches!(refused(&header(MESSAGE_BYTES_MAX as u32 + 1, 1, true)), Err(BadMessage(what)) if what.contains("longer"))
    );
    for (bytes, kind) in [(0, 0), (0, 4), (1, 2), (1, 3)] {
        assert!(matches!(refused(&header(bytes, kind, true)), Err(BadMessage(what)) if what.contains("kind")));
    }
    assert_eq!(refused(&header(MESSAGE_BYTES_MAX as u32, 1, true)), Ok(None));
}

proptest! {
    #[test]
    fn wherever_bytes_are_cut_the_messages_are_the_same(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20),
        cuts in proptest::collection::vec(1_usize..60, 1..50),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| encode(message).unwrap()).collect();
        let (mut decoder, mut rest, mut heard) = (Decoder::default(), &bytes[..], Vec::new());
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            decoder.feed(piece);
            rest = behind;
            while let Some(Decoded::Message(message)) = decoder.decoded().unwrap() {
                heard.push(message);
            }
        }
        prop_assert_eq!(heard, messages);
    }
}
