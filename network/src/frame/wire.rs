//! Frames that come over a link: what kinds there are, and what is refused before anything in them is believed.

use std::mem::offset_of;

use super::{Control, HEADER_BYTES, Header, MAGIC, Route, VERSION};
use crate::buffer::PAYLOAD_BYTES_MAX;

/// Bytes of the header that its checksum covers: all in front of it.
const CHECKED_BYTES: usize = offset_of!(Header, crc32c);

const CONTROL_BITS: u8 =
    Control::Watermark(0).bit() | Control::Idle.bit() | Control::Barrier(0).bit() | Control::End.bit();

/// What a frame is for. All but the first are between the two ends of a link, and are never seen by a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A frame of an edge.
    Data,
    /// The receiving end grants frames of an edge: all in all [`mark`](Header::mark), out of a pool of
    /// [`count`](Header::count).
    Credit,
    /// The sender is alive.
    Heartbeat,
    /// No data follows, and the end of the connection will be no failure.
    Goodbye,
}

impl Kind {
    pub(super) const DATA: u8 = 0;

    const fn byte(self) -> u8 {
        match self {
            Kind::Data => Kind::DATA,
            Kind::Credit => 1,
            Kind::Heartbeat => 2,
            Kind::Goodbye => 3,
        }
    }
}

/// Why 64 bytes are no header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The first four bytes are others.
    #[error(
        "a frame starts with \"MILL\", and this starts with {found:02x?}: it is no frame, or the stream lost its place"
    )]
    Magic {
        /// The bytes there.
        found: [u8; 4],
    },
    /// Another version of the format.
    #[error("the frame is of version {found} of the format, and this build knows version {VERSION} only")]
    Version {
        /// The version there.
        found: u16,
    },
    /// A kind of frame that this version does not have.
    #[error("there is no frame of kind {found}")]
    Kind {
        /// The kind there.
        found: u8,
    },
    /// Bits in the control byte that this version does not have.
    #[error("the control byte is {found:#010b}, and its upper four bits have no meaning")]
    Control {
        /// The byte there.
        found: u8,
    },
    /// A payload that no buffer holds.
    #[error("the frame claims {found} bytes of payload, and a buffer holds {PAYLOAD_BYTES_MAX}")]
    PayloadBytes {
        /// The length there.
        found: u32,
    },
    /// A field that has no meaning in such a frame is not zero.
    #[error("the field `{field}` means nothing in a frame of this kind and these controls, and is not zero")]
    Stray {
        /// Its name in `docs/formats/frame.md`.
        field: &'static str,
    },
}

impl Header {
    /// Reads a header that came over a link: magic, version, kind, controls, length, and zero wherever nothing is meant.
    /// Route, sequence and checksum are for those who know what to expect.
    ///
    /// ```
    /// use millstream_network::frame::{Header, Route};
    ///
    /// let header = Header::new(Route { edge: 3, from_shard: 0, to_shard: 1 });
    /// assert_eq!(Header::from_wire(header.as_bytes()), Ok(header));
    /// assert!(Header::from_wire(&[0; 64]).unwrap_err().to_string().starts_with("a frame starts with"));
    /// ```
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn from_wire(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let header = Header {
            magic: field(bytes, offset_of!(Header, magic)),
            version: u16::from_le_bytes(field(bytes, offset_of!(Header, version))),
            control: bytes[offset_of!(Header, control)],
            kind: bytes[offset_of!(Header, kind)],
            edge: u32::from_le_bytes(field(bytes, offset_of!(Header, edge))),
            from_shard: u16::from_le_bytes(field(bytes, offset_of!(Header, from_shard))),
            to_shard: u16::from_le_bytes(field(bytes, offset_of!(Header, to_shard))),
            payload_bytes: u32::from_le_bytes(field(bytes, offset_of!(Header, payload_bytes))),
            count: u32::from_le_bytes(field(bytes, offset_of!(Header, count))),
            sequence: u64::from_le_bytes(field(bytes, offset_of!(Header, sequence))),
            mark: u64::from_le_bytes(field(bytes, offset_of!(Header, mark))),
            watermark: i64::from_le_bytes(field(bytes, offset_of!(Header, watermark))),
            barrier: u64::from_le_bytes(field(bytes, offset_of!(Header, barrier))),
            crc32c: u32::from_le_bytes(field(bytes, offset_of!(Header, crc32c))),
            reserved: u32::from_le_bytes(field(bytes, offset_of!(Header, reserved))),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), FrameError> {
        if self.magic != MAGIC {
            return Err(FrameError::Magic { found: self.magic });
        }
        if self.version != VERSION {
            return Err(FrameError::Version { found: self.version });
        }
        if self.kind > Kind::Goodbye.byte() {
            return Err(FrameError::Kind { found: self.kind });
        }
        if self.control & !CONTROL_BITS != 0 {
            return Err(FrameError::Control { found: self.control });
        }
        if self.payload_bytes as usize > PAYLOAD_BYTES_MAX {
            return Err(FrameError::PayloadBytes { found: self.payload_bytes });
        }
        let (data, credit) = (self.kind() == Kind::Data, self.kind() == Kind::Credit);
        for (field, stray) in [
            ("control", !data && self.control != 0),
            ("payload bytes", !data && self.payload_bytes != 0),
            ("edge", !data && !credit && self.edge != 0),
            ("count", !data && !credit && self.count != 0),
            ("mark", !data && !credit && self.mark != 0),
            ("watermark", self.watermark().is_none() && self.watermark != 0),
            ("barrier", self.barrier().is_none() && self.barrier != 0),
            ("reserved", self.reserved != 0),
        ] {
            if stray {
                return Err(FrameError::Stray { field });
            }
        }
        Ok(())
    }

    /// What the frame is for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self.kind {
            Kind::DATA => Kind::Data,
            1 => Kind::Credit,
            2 => Kind::Heartbeat,
            _ => Kind::Goodbye,
        }
    }

    /// A frame between the two ends of a link, sealed.
    #[must_use]
    pub(crate) fn of_link(kind: Kind, route: Route, sequence: u64, count: u32, mark: u64) -> Header {
        let mut header = Header { kind: kind.byte(), sequence, count, mark, ..Header::new(route) };
        header.seal(header.checksum(&[]));
        header
    }

    /// The checksum of a frame: crc32c of the header's first 56 bytes and the payload.
    #[must_use]
    pub fn checksum(&self, payload: &[u8]) -> u32 {
        extend_checksum(extend_checksum(0, &self.as_bytes()[..CHECKED_BYTES]), payload)
    }

    /// The checksum that the frame came with; zero between cores.
    #[must_use]
    pub const fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// Writes the checksum, before the frame leaves the process. Nothing of the frame may change afterwards.
    pub(crate) const fn seal(&mut self, checksum: u32) {
        self.crc32c = checksum;
    }

    /// Takes over what a frame from elsewhere says about its payload: count, mark and controls.
    pub(crate) fn carry(&mut self, from: &Header) {
        self.count = from.count;
        self.mark = from.mark;
        self.control = from.control;
        self.watermark = from.watermark;
        self.barrier = from.barrier;
    }
}

/// The crc32c of what had this one, with more bytes behind it; of nothing, it is 0. 56 GB/s from the cache where the processor
/// multiplies polynomials in wide registers, 23 with the instruction made for it.
pub(crate) fn extend_checksum(checksum: u32, bytes: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(!checksum));
    digest.update(bytes);
    digest.finalize() as u32
}

/// The `N` bytes at `at`.
fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}
