//! Rows over a TCP connection on the loopback: whole frames, columns, sockets that never block.
//!
//! ```text
//! frame  | rows 8 | last 8 | keys: capacity × key | times: capacity × 8 |      always whole: the last one has unused rows
//! ```
//!
//! Frames of 256 KiB and socket buffers of 4 MiB: below, the system call shows; with smaller socket buffers the data is
//! still in the sender's cache when the receiver reads it, which is slower between cores that share none. io_uring was as
//! fast and no faster at this size; blocking sockets in lockstep were a fifth slower.
#![expect(unsafe_code, reason = "rows are sent as the bytes they are, and socket buffers have no setter in std")]

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use super::LimitError;
use super::exchange::{Receives, Sends};
use super::ring::Bytes;

const FRAME_BYTES: usize = 256 << 10;

const SOCKET_BUFFER_BYTES: libc::c_int = 4 << 20;

/// Rows as they travel.
struct Frame<K> {
    /// Rows used, and one where nothing follows.
    header: [i64; 2],
    keys: Vec<K>,
    times_ms: Vec<i64>,
    /// Bytes that the socket has taken or given.
    moved: usize,
}

impl<K: Bytes> Frame<K> {
    const ROWS_MAX: usize = FRAME_BYTES / (size_of::<K>() + size_of::<i64>());

    /// `key` fills what is unused.
    fn new(key: K) -> Frame<K> {
        Frame { header: [0; 2], keys: vec![key; Self::ROWS_MAX], times_ms: vec![0; Self::ROWS_MAX], moved: 0 }
    }

    fn rows(&self) -> usize {
        self.header[0] as usize
    }

    fn is_last(&self) -> bool {
        self.header[1] != 0
    }

    /// Takes as many rows as fit and says how many.
    fn append(&mut self, keys: &[K], times_ms: &[i64]) -> usize {
        let (first, rows) = (self.rows(), keys.len().min(Self::ROWS_MAX - self.rows()));
        self.keys[first..first + rows].copy_from_slice(&keys[..rows]);
        self.times_ms[first..first + rows].copy_from_slice(&times_ms[..rows]);
        self.header[0] += rows as i64;
        rows
    }

    /// Lets `step` move what is still to be moved, in order, until all is. False where the socket would block.
    ///
    /// # Panics
    /// When the connection breaks: both its ends are in this process, which closes neither before all was moved.
    fn move_all(&mut self, mut step: impl FnMut([&mut [u8]; 3]) -> std::io::Result<usize>) -> bool {
        loop {
            let mut skipped = self.moved;
            let parts = [bytes_mut(&mut self.header), bytes_mut(&mut self.keys), bytes_mut(&mut self.times_ms)];
            let parts = parts.map(|part| {
                let skip = skipped.min(part.len());
                skipped -= skip;
                &mut part[skip..]
            });
            if parts.iter().all(|part| part.is_empty()) {
                return true;
            }
            match step(parts) {
                Ok(0) => panic!("a loopback connection was closed in the middle of a frame"),
                Ok(bytes) => self.moved += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("a loopback connection broke: {error}"),
            }
        }
    }
}

/// Values as their bytes.
fn bytes_mut<T: Bytes>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: a `Bytes` has no padding to read and takes any bytes that are written.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// The end that frames are written to: one is filled while the other is on its way.
pub(super) struct Sender<K> {
    socket: TcpStream,
    filling: Frame<K>,
    leaving: Frame<K>,
    /// The last frame is leaving.
    ended: bool,
}

/// The end that frames are read from.
pub(super) struct Receiver<K> {
    socket: TcpStream,
    arriving: Frame<K>,
    ended: bool,
}

/// A connection's two ends; `key` fills unused rows.
pub(super) fn connection<K: Bytes>(key: K) -> Result<(Sender<K>, Receiver<K>), LimitError> {
    let connect = || -> std::io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        for socket in [&near, &far] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            enlarge(socket);
        }
        Ok((near, far))
    };
    let (near, far) = connect().map_err(LimitError::Loopback)?;
    let mut leaving = Frame::new(key);
    // Nothing is on its way yet.
    leaving.moved = usize::MAX;
    let sender = Sender { socket: near, filling: Frame::new(key), leaving, ended: false };
    Ok((sender, Receiver { socket: far, arriving: Frame::new(key), ended: false }))
}

/// Asks for large socket buffers: beyond the system's limit where we may, up to it otherwise.
fn enlarge(socket: &TcpStream) {
    let bytes = SOCKET_BUFFER_BYTES;
    for (beyond, within) in [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)] {
        let set = |option| {
            let (value, size) = (&raw const bytes, size_of_val(&bytes) as libc::socklen_t);
            // SAFETY: the value outlives the call and is as large as it is told. Refusal only costs speed.
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value.cast(), size) }
        };
        if set(beyond) != 0 {
            set(within);
        }
    }
}

impl<K: Bytes> Sender<K> {
    /// Writes what is on its way. True once nothing is.
    fn flush(&mut self) -> bool {
        let socket = &mut self.socket;
        self.leaving.move_all(|parts| socket.write_vectored(&parts.each_ref().map(|part| IoSlice::new(part))))
    }

    /// Puts the filled frame on its way.
    fn leave(&mut self) {
        std::mem::swap(&mut self.filling, &mut self.leaving);
        self.leaving.moved = 0;
        self.filling.header = [0; 2];
    }
}

impl<K: Bytes> Sends<K> for Sender<K> {
    const GROUP_ROWS: usize = 1;

    fn send(&mut self, keys: &[K], times_ms: &[i64]) -> usize {
        if self.filling.rows() == Frame::<K>::ROWS_MAX {
            if !self.flush() {
                return 0;
            }
            self.leave();
            self.flush();
        }
        self.filling.append(keys, times_ms)
    }

    fn end(&mut self) -> bool {
        if !self.flush() {
            return false;
        }
        if !self.ended {
            self.ended = true;
            self.filling.header[1] = 1;
            self.leave();
        }
        self.flush()
    }
}

impl<K: Bytes> Receives<K> for Receiver<K> {
    const LOOK_AFTER_BATCHES: u32 = 16;

    fn receive(&mut self, see: impl FnOnce(&[K], &[i64], bool)) -> bool {
        let socket = &mut self.socket;
        let read = |parts: [&mut [u8]; 3]| socket.read_vectored(&mut parts.map(IoSliceMut::new));
        if self.ended || !self.arriving.move_all(read) {
            return false;
        }
        let (rows, last) = (self.arriving.rows(), self.arriving.is_last());
        see(&self.arriving.keys[..rows], &self.arriving.times_ms[..rows], last);
        self.arriving.moved = 0;
        self.ended = last;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ysb::event::uuid_text;

    /// Sends portions of all sizes and finds all rows in order.
    fn carries<K: Bytes + PartialEq + std::fmt::Debug>(key_of: impl Fn(u64) -> K) {
        const ROWS: u64 = 60_000;
        let (mut sender, mut receiver) = connection(key_of(0)).unwrap();
        let (mut sent, mut portion, mut next, mut ended) = (0, 0, 0, false);
        while !ended {
            portion = (portion + 1) % 1024;
            let rows = sent..ROWS.min(sent + portion);
            let times_ms: Vec<i64> = rows.clone().map(|row| row as i64).collect();
            let keys: Vec<K> = rows.map(&key_of).collect();
            sent += sender.send(&keys, &times_ms) as u64;
            if sent == ROWS {
                sender.end();
            }
            receiver.receive(|keys, times_ms, last| {
                for (key, time_ms) in keys.iter().zip(times_ms) {
                    assert_eq!((*key, *time_ms), (key_of(next), next as i64));
                    next += 1;
                }
                ended = last;
            });
        }
        assert_eq!(next, ROWS);
        assert!(!receiver.receive(|_, _, _| panic!("nothing follows the last frame")));
    }

    #[test]
    fn rows_arrive_in_order_and_whole() {
        carries(|row| row);
        carries(uuid_text);
    }
}
