//! Golden bytes: what the formats of handshake, channel and lease look like, computed from their pages by another program.

use millstream_network::channel::{Decoded, Decoder, encode};
use millstream_network::election::Lease;
use millstream_network::session::{Session, Step};
use millstream_network::{ChannelError, Facts, Refusal};

use super::{LONG, secret};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The messages of a dialler and of an acceptor with the nonces 1, 1, … and 2, 2, …
fn said(acceptors: &Facts, binding: Option<[u8; 32]>) -> ([Vec<String>; 2], Vec<Step>) {
    let facts = Facts::new().with("job", "clicks").with("version", "1");
    let mut sessions = [
        Session::dial(&secret(), &facts, &b"worker 3"[..], [1; 32], binding).unwrap(),
        Session::accept(&secret(), acceptors, &b"welcome"[..], [2; 32], binding).unwrap(),
    ];
    let (mut said, mut ends) = ([Vec::new(), Vec::new()], Vec::new());
    while ends.len() < 2 {
        for end in 0..2 {
            match sessions[end].step() {
                Step::NeedMore => {}
                Step::Send(bytes) => {
                    sessions[1 - end].receive_all(&bytes);
                    said[end].push(hex(&bytes));
                }
                step => ends.push(step),
            }
        }
    }
    (said, ends)
}

const HELLO: &str = "4d494c4801000100200000000101010101010101010101010101010101010101010101010101010101010101";
const CHALLENGE: &str = "4d494c4801000200200000000202020202020202020202020202020202020202020202020202020202020202";

#[test]
fn a_handshake_without_tls() {
    let facts = Facts::new().with("job", "clicks").with("version", "1");
    let ([dialler, acceptor], _) = said(&facts, None);
    let proof = "4d494c480100030020000000faeb1a5edb5349471a532287c1f5eb143bcbb11a50c2f6017d4bf8c1049c2977";
    let greeting = "4d494c4801000500510000002100000008000000030000006a6f6206000000636c69636b730700000076657273696f6e0100\
         000031776f726b65722033fe4ee5a215ec43ff1754f41269ec22f13968a2888a96221936b327efee37c84d";
    assert_eq!(dialler, [HELLO, proof, greeting]);
    let proof = "4d494c480100040020000000b2c23d1661161d01a4decdb0708dd9cbd8a5847a0a0133fe34082da356630db5";
    let welcome = "4d494c48010006002700000077656c636f6d6538df2d6d5be7939d94970e096ab7bb42b10e819ac137a5ff88e6b39734970a\
         66";
    assert_eq!(acceptor, [CHALLENGE, proof, welcome]);
}

#[test]
fn a_handshake_inside_tls_that_ends_with_a_difference() {
    let facts = Facts::new().with("job", "clicks").with("version", "2");
    let ([dialler, acceptor], ends) = said(&facts, Some([3; 32]));
    let proof = "4d494c4801000300200000007bac3460bc6f246d30ad4c7ca6f08004d88c9a0702ca0f026bec1b37e7825eee";
    let greeting = "4d494c4801000500510000002100000008000000030000006a6f6206000000636c69636b730700000076657273696f6e0100\
         000031776f726b65722033432ad44a54e7a3464214dbc4d62c21e0a122a0d18f8d612d67ce186432cbde9d";
    assert_eq!(dialler, [HELLO, proof, greeting]);
    let proof = "4d494c4801000400200000002f121bef3decf4daf31d3263ed564866683d659a4a859110e107725edcb9a061";
    let differs = "4d494c4801000700300000000700000076657273696f6e0100000032cb5dcca2a50dbf43a0e7b32c234195c40f7281cbe948\
         0efd1a9cced175992f10";
    assert_eq!(acceptor, [CHALLENGE, proof, differs]);
    assert!(ends.iter().all(|end| matches!(end, Step::Refused(Refusal::Differs { .. }))), "{ends:?}");
}

#[test]
fn messages_of_a_channel() {
    assert_eq!(hex(&encode(b"order").unwrap()), "05000000010000004952f2db6d2160c76f72646572");
    assert_eq!(hex(&encode(b"").unwrap()), "0000000001000000000000007ac85c62");
    let mut decoder = Decoder::default();
    decoder.feed(&bytes("000000000200000000000000134f18b9"));
    decoder.feed(&bytes("000000000300000000000000343224f0"));
    assert_eq!(decoder.decoded(), Ok(Some(Decoded::Heartbeat)));
    assert_eq!(decoder.decoded(), Ok(Some(Decoded::Goodbye)));
}

/// What the two halves put on a socket is that, too.
#[test]
fn a_heartbeat_and_a_goodbye_on_a_socket() {
    let (trust, listener) = (super::trust(), super::listener(&super::trust()));
    let (dialled, accepted) = super::meet(&listener, &trust);
    let (mut sender, mut receiver) = dialled.into_channel().unwrap();
    let mut socket = std::net::TcpStream::from(accepted.connection.into_socket());
    sender.heartbeat().unwrap();
    sender.close();
    let mut heard = Vec::new();
    std::io::Read::read_to_end(&mut socket, &mut heard).unwrap();
    assert_eq!(hex(&heard), "000000000200000000000000134f18b9".to_owned() + "000000000300000000000000343224f0");
    std::io::Write::write_all(&mut socket, &heard).unwrap();
    assert_eq!(receiver.receive(LONG).unwrap(), millstream_network::Received::Heartbeat);
    assert!(matches!(receiver.receive(LONG), Err(ChannelError::Closed)));
}

#[test]
fn a_lease() {
    let holder = "host-3/4711/9f3ac2d1".to_owned();
    let lease = Lease { term: 7, renewed: 41, holder, address: "10.0.0.3:7000".into() };
    let text =
        "millstream lease 1\nterm 7\nrenewed 41\nholder host-3/4711/9f3ac2d1\naddress 10.0.0.3:7000\ncrc32c b97dbf12\n";
    assert_eq!(String::from_utf8(lease.encode()).unwrap(), text);
}
