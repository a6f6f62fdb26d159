//! The header's bytes against a golden copy, and the order of controls.

use millstream_network::frame::{Control, HEADER_BYTES, Header, Route};

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
        b'M', b'I', b'L', b'L', 1, 0, 0b1111, 0, //               magic, version, control, flags
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
