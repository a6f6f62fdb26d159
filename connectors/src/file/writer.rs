//! One shard's end of the file sink: rows become bytes, bytes become pieces, an epoch becomes a file.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::road::sink::{Committable, Epoch, SinkError, SinkFuture, SinkWriter};

use super::pen::{Afloat, Pen};
use super::publish::{self, Prepared, PreparedFile, Proof};
use super::{Place, final_name, pending_name};

/// Rows are handed to the disk in pieces of this size. A write of 512 KiB is near the best that a disk does with one
/// request in flight, and costs the road one allocation for some ten thousand rows.
const PIECE_BYTES: usize = 512 << 10;

/// The road is held back beyond this. It can overshoot by what one batch of rows makes.
const AFLOAT_BYTES_MAX: usize = 8 * PIECE_BYTES;

/// Distinguishes the pending files of one process.
static PENDING_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Writes the files of one shard. Made by [`FileSink`](super::FileSink); its calls need a glommio executor around them.
#[derive(Debug)]
pub struct FileWriter<F> {
    place: Rc<Place>,
    format: Rc<F>,
    row_end: &'static [u8],
    afloat: Rc<Afloat>,
    pen: Option<Pen>,
    piece: Vec<u8>,
    epoch: Tally,
    /// The epoch of the checkpoint that the job goes on from.
    restored: Option<Epoch>,
}

/// What went into the open epoch's file so far.
#[derive(Default, Debug)]
struct Tally {
    rows: u64,
    bytes: u64,
    crc32c: u32,
}

impl<F> FileWriter<F> {
    pub(super) fn new(place: Place, format: Rc<F>, row_end: &'static [u8]) -> FileWriter<F> {
        FileWriter {
            place: Rc::new(place),
            format,
            row_end,
            afloat: Rc::default(),
            pen: None,
            piece: Vec::new(),
            epoch: Tally::default(),
            restored: None,
        }
    }

    /// Hands the gathered bytes over; the file is begun by the first of them.
    fn send_piece(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        self.epoch.bytes += piece.len() as u64;
        self.epoch.crc32c = crc32c::crc32c_append(self.epoch.crc32c, &piece);
        let pen = self.pen.get_or_insert_with(|| {
            let number = PENDING_NUMBER.fetch_add(1, Ordering::Relaxed);
            Pen::start(&self.place, pending_name(self.place.shard, number), &self.afloat)
        });
        pen.send(piece);
    }
}

impl<T: 'static, F: Fn(&T, &mut Vec<u8>) + 'static> SinkWriter<T> for FileWriter<F> {
    fn write(&mut self, row: &T) -> Result<(), SinkError> {
        self.afloat.check()?;
        (self.format)(row, &mut self.piece);
        self.piece.extend_from_slice(self.row_end);
        self.epoch.rows += 1;
        if self.piece.len() >= PIECE_BYTES {
            self.send_piece();
            // An epoch that filled one piece fills more: the next is as long at once instead of growing to it.
            self.piece.reserve(PIECE_BYTES + PIECE_BYTES / 8);
        }
        Ok(())
    }

    fn ready(&mut self) -> bool {
        // After a failure nothing moves any more. The road goes on for one row, which meets the error.
        self.afloat.bytes() < AFLOAT_BYTES_MAX || self.afloat.check().is_err()
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        // All that decides what belongs to the epoch happens here and now: the future may run after the next row came.
        if !self.piece.is_empty() {
            self.send_piece();
        }
        let Tally { rows, bytes, crc32c } = std::mem::take(&mut self.epoch);
        let shard = self.place.shard;
        let pen = self.pen.take();
        let file = pen.as_ref().map(|pen| PreparedFile {
            pending: pen.name().to_owned(),
            visible: final_name(shard, epoch),
            bytes,
            rows,
            crc32c,
        });
        let prepared = serde_json::to_value(Prepared { shard, epoch, file }).expect("a committable is plain JSON");
        let afloat = Rc::clone(&self.afloat);
        Box::pin(async move {
            match pen {
                Some(pen) => pen.close().await?,
                None => afloat.check()?,
            }
            Ok(prepared)
        })
    }

    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        let place = Rc::clone(&self.place);
        Box::pin(async move { publish::commit(&place, &Prepared::parse(committable)?, Proof::Length).await })
    }

    fn restored(&mut self, epoch: Epoch) {
        self.restored = Some(epoch);
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        let (place, restored) = (Rc::clone(&self.place), self.restored);
        Box::pin(async move { publish::recover(&place, restored, committables).await })
    }
}
