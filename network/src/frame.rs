//! The frame: 64 bytes of header, then the payload. `docs/formats/frame.md` is the written format.
//!
//! ```text
//!      0        1        2        3        4        5        6        7
//!  0 | magic "MILL"                      | version         | control | kind   |
//!  8 | edge                              | from shard      | to shard         |
//! 16 | payload bytes                     | count                              |
//! 24 | sequence                                                               |
//! 32 | mark                                                                   |
//! 40 | watermark                                                              |
//! 48 | barrier                                                                |
//! 56 | crc32c                            | reserved                           |
//! 64 | payload …                                                              |
//! ```
//!
//! The header lies in memory exactly so, little endian: between cores it is never encoded, and a link between processes
//! can send it as it lies. What a control, a mark or a count means is for those who use the lane.

mod wire;

use std::fmt;

use crate::LINE_BYTES;

pub(crate) use wire::extend_checksum;
pub use wire::{FrameError, Kind};

/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"MILL";

/// The version of the format that this build writes, and the only one it reads.
pub const VERSION: u16 = 2;

/// Bytes of a header: one cache line, so that the payload starts on one.
pub const HEADER_BYTES: usize = LINE_BYTES;

/// What a buffer says beside its payload. All controls of one buffer come after its payload, each kind at most once, in
/// the order of the variants: a watermark that rides with a barrier precedes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// Nothing at or below this time follows.
    Watermark(i64),
    /// This lane is silent for a while; its receiver should not wait for a watermark.
    Idle,
    /// The line between what came before and what comes after; the number says which line.
    Barrier(u64),
    /// Nothing follows at all.
    End,
}

impl Control {
    /// The bit in the header's control byte. Bits rise in the order in which controls take effect.
    const fn bit(self) -> u8 {
        match self {
            Control::Watermark(_) => 1,
            Control::Idle => 1 << 1,
            Control::Barrier(_) => 1 << 2,
            Control::End => 1 << 3,
        }
    }
}

/// Where a lane leads: written once into each of its buffers, and checked on every send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The edge of the job's graph that the lane belongs to.
    pub edge: u32,
    /// The shard that sends.
    pub from_shard: u16,
    /// The shard that receives.
    pub to_shard: u16,
}

/// The header of a frame, as it lies in memory and on the wire.
///
/// ```
/// use millstream_network::frame::{Control, Header, Route};
///
/// let mut header = Header::new(Route { edge: 3, from_shard: 0, to_shard: 1 });
/// header.put(Control::Watermark(1_000));
/// header.put(Control::Barrier(7));
/// assert!(header.controls().eq([Control::Watermark(1_000), Control::Barrier(7)]));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Header {
    magic: [u8; 4],
    version: u16,
    control: u8,
    kind: u8,
    edge: u32,
    from_shard: u16,
    to_shard: u16,
    payload_bytes: u32,
    count: u32,
    sequence: u64,
    mark: u64,
    watermark: i64,
    barrier: u64,
    crc32c: u32,
    reserved: u32,
}

/// Each offset is the sum of the fields before it; the compiler confirms that the struct agrees with the drawing.
const _: () = {
    use std::mem::offset_of;
    const MAGIC_AT: usize = 0;
    const VERSION_AT: usize = MAGIC_AT + 4;
    const CONTROL_AT: usize = VERSION_AT + 2;
    const KIND_AT: usize = CONTROL_AT + 1;
    const EDGE_AT: usize = KIND_AT + 1;
    const FROM_SHARD_AT: usize = EDGE_AT + 4;
    const TO_SHARD_AT: usize = FROM_SHARD_AT + 2;
    const PAYLOAD_BYTES_AT: usize = TO_SHARD_AT + 2;
    const COUNT_AT: usize = PAYLOAD_BYTES_AT + 4;
    const SEQUENCE_AT: usize = COUNT_AT + 4;
    const MARK_AT: usize = SEQUENCE_AT + 8;
    const WATERMARK_AT: usize = MARK_AT + 8;
    const BARRIER_AT: usize = WATERMARK_AT + 8;
    const CRC32C_AT: usize = BARRIER_AT + 8;
    const RESERVED_AT: usize = CRC32C_AT + 4;
    assert!(offset_of!(Header, magic) == MAGIC_AT && offset_of!(Header, version) == VERSION_AT);
    assert!(offset_of!(Header, control) == CONTROL_AT && offset_of!(Header, kind) == KIND_AT);
    assert!(offset_of!(Header, edge) == EDGE_AT && offset_of!(Header, from_shard) == FROM_SHARD_AT);
    assert!(offset_of!(Header, to_shard) == TO_SHARD_AT);
    assert!(offset_of!(Header, payload_bytes) == PAYLOAD_BYTES_AT && offset_of!(Header, count) == COUNT_AT);
    assert!(offset_of!(Header, sequence) == SEQUENCE_AT && offset_of!(Header, mark) == MARK_AT);
    assert!(offset_of!(Header, watermark) == WATERMARK_AT && offset_of!(Header, barrier) == BARRIER_AT);
    assert!(offset_of!(Header, crc32c) == CRC32C_AT && offset_of!(Header, reserved) == RESERVED_AT);
    assert!(RESERVED_AT + 4 == HEADER_BYTES && size_of::<Header>() == HEADER_BYTES, "no padding, one line");
};

impl Header {
    /// The header of an empty frame on `route`.
    #[must_use]
    pub const fn new(route: Route) -> Header {
        Header {
            magic: MAGIC,
            version: VERSION,
            control: 0,
            kind: Kind::DATA,
            edge: route.edge,
            from_shard: route.from_shard,
            to_shard: route.to_shard,
            payload_bytes: 0,
            count: 0,
            sequence: 0,
            mark: 0,
            watermark: 0,
            barrier: 0,
            crc32c: 0,
            reserved: 0,
        }
    }

    /// Where the frame comes from and goes to.
    #[must_use]
    pub const fn route(&self) -> Route {
        Route { edge: self.edge, from_shard: self.from_shard, to_shard: self.to_shard }
    }

    /// Bytes of payload behind the header. Only the buffer itself changes it, as bytes are written.
    #[must_use]
    pub const fn payload_bytes(&self) -> usize {
        self.payload_bytes as usize
    }

    /// The caller has proven that `bytes` fit the buffer, and with that an u32.
    #[inline(always)]
    pub(crate) const fn set_payload_bytes(&mut self, bytes: usize) {
        self.payload_bytes = bytes as u32;
    }

    /// How many things the payload holds, as its writer counts them.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Says how many things the payload holds.
    pub const fn set_count(&mut self, count: u32) {
        self.count = count;
    }

    /// The frame's number on its lane: the first is 0, and none is skipped. Set by the sender.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) const fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// A number that travels along and means something to the two ends only.
    #[must_use]
    pub const fn mark(&self) -> u64 {
        self.mark
    }

    /// Sets the number that travels along.
    pub const fn set_mark(&mut self, mark: u64) {
        self.mark = mark;
    }

    /// Adds a control behind the payload and behind the controls already put.
    ///
    /// # Panics
    /// When a control of the same kind or one that takes effect later is already there: the order would be lost. Send the
    /// buffer and put the control into the next.
    pub fn put(&mut self, control: Control) {
        assert!(
            self.control < control.bit(),
            "{control:?} comes after {:?}; it needs a buffer of its own",
            self.controls().last(),
        );
        match control {
            Control::Watermark(watermark) => self.watermark = watermark,
            Control::Barrier(barrier) => self.barrier = barrier,
            Control::Idle | Control::End => {}
        }
        self.control |= control.bit();
    }

    /// The controls, in the order in which they take effect.
    pub fn controls(&self) -> impl Iterator<Item = Control> + use<> {
        let present = self.control;
        [Control::Watermark(self.watermark), Control::Idle, Control::Barrier(self.barrier), Control::End]
            .into_iter()
            .filter(move |control| present & control.bit() != 0)
    }

    /// Whether any control is there.
    #[must_use]
    pub const fn has_control(&self) -> bool {
        self.control != 0
    }

    /// The watermark, if one was put.
    #[must_use]
    pub const fn watermark(&self) -> Option<i64> {
        if self.control & Control::Watermark(0).bit() != 0 { Some(self.watermark) } else { None }
    }

    /// The barrier, if one was put.
    #[must_use]
    pub const fn barrier(&self) -> Option<u64> {
        if self.control & Control::Barrier(0).bit() != 0 { Some(self.barrier) } else { None }
    }

    /// The header as it travels.
    #[must_use]
    #[expect(
        unsafe_code,
        reason = "the header is its own encoding; tests/frame.rs holds its bytes against a golden copy"
    )]
    pub const fn as_bytes(&self) -> &[u8; HEADER_BYTES] {
        // SAFETY: `Header` is `repr(C)`, as long as the array, and without padding, as asserted above: every byte is
        // initialised, and a byte needs no alignment.
        unsafe { &*std::ptr::from_ref(self).cast() }
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Route { edge, from_shard, to_shard } = self.route();
        write!(f, "edge {edge}, shard {from_shard} → {to_shard}, frame {}, mark {}", self.sequence, self.mark)?;
        write!(f, ": {} in {} bytes", self.count, self.payload_bytes)?;
        f.write_str(if self.has_control() { ", then " } else { "" })?;
        f.debug_list().entries(self.controls()).finish()
    }
}
