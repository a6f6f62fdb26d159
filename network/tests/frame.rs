//! The header's bytes against a golden copy, and the order of controls.

use millstream_network::PAYLOAD_BYTES_MAX;
use millstream_network::frame::{Control, FrameError, HEADER_BYTES, Header, Kind, Route, VERSION};

const ROUTE: Route = Route { edge: 0x0403_0201, from_shard: 0x0605, to_shard: 0x0807 };

#[test]
fn the_header_lies_as_drawn() {
    let mut header = Header::new(ROUTE);
    header.set_count(0x1413_1211);
    header.set_mark(0x2827_2625_2423_2221);
    header.put(Control::Watermark(-2));
    header.put(Control::Idle);
    header.put(Control::Barrier(0x4847_4645_4443_4241));
    header.put(Control::End);

    #[rustfmt::skip]
    let golden: [u8; HEADER_BYTES] = [
        b'M', b'I', b'L', b'L', 2, 0, 0b1111, 0, //               magic, version, control, kind
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, //        edge, from shard, to shard
        0, 0, 0, 0, 0x11, 0x12, 0x13, 0x14, //                    payload bytes, count
        0, 0, 0, 0, 0, 0, 0, 0, //                                sequence, which the lane sets
        0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, //        mark
        0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, //        watermark
        0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, //        barrier
        0, 0, 0, 0, 0, 0, 0, 0, //                                crc32c and reserved: zero between cores
    ];
    assert_eq!(header.as_bytes(), &golden);
}

#[test]
fn each_control_has_its_own_bit() {
    for (control, byte) in [(Control::Watermark(5), 1), (Control::Idle, 2), (Control::Barrier(5), 4), (Control::End, 8)]
    {
        let mut header = Header::new(ROUTE);
        assert!(!header.has_control() && header.controls().next().is_none());
        header.put(control);
        assert_eq!(header.as_bytes()[6], byte);
        assert!(header.has_control() && header.controls().eq([control]));
    }
}

#[test]
fn a_barrier_carries_the_watermark_before_it() {
    let mut header = Header::new(ROUTE);
    header.put(Control::Watermark(i64::MAX));
    header.put(Control::Barrier(9));
    assert!(header.controls().eq([Control::Watermark(i64::MAX), Control::Barrier(9)]));
    assert_eq!((header.watermark(), header.barrier()), (Some(i64::MAX), Some(9)));
    assert_eq!(
        format!("{header:?}"),
        "edge 67305985, shard 1541 → 2055, frame 0, mark 0: 0 in 0 bytes, then [Watermark(9223372036854775807), Barrier(9)]",
    );
}

#[test]
#[should_panic(expected = "Watermark(3) comes after Some(Barrier(9)); it needs a buffer of its own")]
fn a_watermark_does_not_overtake_a_barrier() {
    let mut header = Header::new(ROUTE);
    header.put(Control::Barrier(9));
    header.put(Control::Watermark(3));
}

/// Bytes as a link wrote them, once: a credit of edge 2, its fifth word, from shard 1 to shard 0.
#[rustfmt::skip]
const CREDIT: [u8; HEADER_BYTES] = [
    b'M', b'I', b'L', b'L', 2, 0, 0, 1, //   magic, version, control, kind
    2, 0, 0, 0, 1, 0, 0, 0, //               edge, from shard, to shard
    0, 0, 0, 0, 19, 0, 0, 0, //              payload bytes, count: the pool
    4, 0, 0, 0, 0, 0, 0, 0, //               sequence
    24, 0, 0, 0, 0, 0, 0, 0, //              mark: frames granted
    0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0,
    0xdf, 0xfa, 0xe8, 0x66, 0, 0, 0, 0, //   crc32c, reserved
];

#[test]
fn a_credit_lies_as_it_always_did() {
    let header = Header::from_wire(&CREDIT).expect("it is one");
    assert_eq!((header.kind(), header.route()), (Kind::Credit, Route { edge: 2, from_shard: 1, to_shard: 0 }));
    assert_eq!((header.count(), header.sequence(), header.mark()), (19, 4, 24));
    assert_eq!(header.checksum(&[]), header.crc32c());
}

#[test]
fn a_checksum_is_that_of_the_header_before_it_and_of_the_payload() {
    let header = Header::new(ROUTE);
    let bytes = [&header.as_bytes()[..56], b"grain"].concat();
    assert_eq!(header.checksum(b"grain"), slow_crc32c(&bytes));
}

/// Castagnoli's polynomial, bit by bit.
fn slow_crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 })
    })
}

#[test]
fn what_is_no_header_is_refused_with_a_reason() {
    let mut data = Header::new(ROUTE);
    data.put(Control::Idle);
    let data = *data.as_bytes();
    assert_eq!(Header::from_wire(&data).map(|header| *header.as_bytes()), Ok(data));
    let changed = |at: usize, byte: u8| {
        let mut bytes = data;
        bytes[at] = byte;
        Header::from_wire(&bytes).expect_err("that is not allowed")
    };
    assert_eq!(changed(0, b'm'), FrameError::Magic { found: *b"mILL" });
    assert_eq!(changed(5, 1), FrameError::Version { found: VERSION + 256 });
    assert_eq!(changed(7, 4), FrameError::Kind { found: 4 });
    assert_eq!(changed(6, 0x12), FrameError::Control { found: 0x12 });
    assert_eq!(changed(18, 1), FrameError::PayloadBytes { found: 1 << 16 });
    assert_eq!(changed(40, 1), FrameError::Stray { field: "watermark" });
    assert_eq!(changed(55, 1), FrameError::Stray { field: "barrier" });
    assert_eq!(changed(60, 1), FrameError::Stray { field: "reserved" });
    for (kind, field) in [(1, "control"), (2, "control"), (3, "control")] {
        assert_eq!(changed(7, kind), FrameError::Stray { field });
    }
    let mut heartbeat = *Header::new(Route { edge: 1, ..ROUTE }).as_bytes();
    heartbeat[7] = 2;
    assert_eq!(Header::from_wire(&heartbeat), Err(FrameError::Stray { field: "edge" }));
    // The longest payload, and one more.
    let mut longest = data;
    longest[16..20].copy_from_slice(&(PAYLOAD_BYTES_MAX as u32).to_le_bytes());
    assert!(Header::from_wire(&longest).is_ok());
    longest[16..20].copy_from_slice(&(PAYLOAD_BYTES_MAX as u32 + 1).to_le_bytes());
    let error = Header::from_wire(&longest).expect_err("no buffer holds it");
    assert_eq!(error.to_string(), "the frame claims 65473 bytes of payload, and a buffer holds 65472");
}
