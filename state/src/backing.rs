//! The file that a segment lies in, where it shall outlive the process: found, locked, mapped and grown.
//!
//! ```text
//! head    identity 8 KiB | slots 2 × 16 KiB | marks 4 KiB        whose it is; what it knows, twice; which of the two holds
//! columns descriptors | checksums | bases                        an entry per page
//! pages   4 KiB each, from a multiple of 2 MiB
//! log     pieces of 256 KiB                                       pages as they were at a barrier: `undo`
//! ```
//!
//! The file is as long as it may ever become and has memory only where it was asked for, ahead of every use: on a full
//! tmpfs a store to a page without memory would end the process. `docs/formats/segment.md` draws every field.
#![expect(
    unsafe_code,
    reason = "the mapping's memory is handed out as bytes and columns, and the kernel asked to lock it"
)]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, compiler_fence};

use memmap2::{Advice, MmapOptions, MmapRaw};
use serde::{Deserialize, Serialize};

use crate::TableConfig;
use crate::hash::{self, HashRange};
use crate::revive::Doubt;
use crate::segment::{Descriptor, Kind, PAGE_BYTES};
use crate::sweep;

/// Where a store's pages lie.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Backing {
    /// In memory of the process, gone with it.
    #[default]
    Anonymous,
    /// In a file of this directory, which must be on a tmpfs, such as `/dev/shm/some-job`: a directory for each job. The
    /// file outlives the process, and a restart on the same boot goes on with it.
    File(PathBuf),
}

/// Changes with every change of the layout. A segment of another version is not looked into.
const VERSION: u32 = 1;

const IDENTITY_BYTES: usize = 8 << 10;
pub(crate) const SLOT_BYTES: usize = 16 << 10;
pub(crate) const SLOTS_AT: usize = IDENTITY_BYTES;
pub(crate) const MARKS_AT: usize = SLOTS_AT + 2 * SLOT_BYTES;
pub(crate) const HEAD_BYTES: usize = MARKS_AT + PAGE_BYTES;
const HUGE_BYTES: usize = 2 << 20;

/// Pages of a piece of the log: one of headers, the others of contents.
pub(crate) const PIECE_PAGES: usize = 64;
pub(crate) const PIECE_BYTES: usize = PIECE_PAGES * PAGE_BYTES;
/// Records of a piece.
pub(crate) const PIECE_RECORDS: usize = PIECE_PAGES - 1;

/// Pages for which memory is got at once, at least and at most: tmpfs takes half a millisecond for 2 MiB.
const GROW_PAGES: std::ops::RangeInclusive<u32> = 16..=512;

impl Drop for SegmentFile {
    fn drop(&mut self) {
        // Closing would do, but for a child of this process that was forked a moment ago and still has the descriptor.
        sweep::unlock(&self.file);
    }
}

/// Bytes of a descriptor that count: all but the last field.
pub(crate) const DESCRIPTOR_BYTES: usize = std::mem::offset_of!(Descriptor, state) + 2;
/// Which of them says what the page is for.
pub(crate) const KIND_AT: usize = std::mem::offset_of!(Descriptor, kind);
const _: () = assert!(DESCRIPTOR_BYTES == 22 && KIND_AT == 19, "docs/formats/segment.md draws it so");

/// Whose a segment is. Another's is not believed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    version: u32,
    boot_id: String,
    operator: String,
    shard: u32,
    range: HashRange,
    pages_max: u32,
    /// The program that wrote it, as its file was.
    build: u64,
}

/// A segment's file, locked and mapped; unlocked when dropped.
pub(crate) struct SegmentFile {
    mapping: MmapRaw,
    file: File,
    path: PathBuf,
    identity: Identity,
    /// The program that the file's head says wrote it, if the head could be read.
    found_build: Option<u64>,
    pub(crate) pages_max: u32,
    pub(crate) descriptors_at: usize,
    pub(crate) checksums_at: usize,
    pub(crate) bases_at: usize,
    pub(crate) pages_at: usize,
    log_at: usize,
    pub(crate) pieces_max: u32,
    /// Pages below this have memory.
    grown_to: u32,
    /// Why the last growth failed.
    pub(crate) trouble: Option<io::Error>,
}

/// What is known of a page's whole records: the newest one's snapshot, and the one before.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct KeptBase {
    pub(crate) number: u32,
    pub(crate) before: u32,
    pub(crate) check: u32,
}

impl KeptBase {
    pub(crate) fn new(page: u32, number: u32, before: u32) -> KeptBase {
        KeptBase { number, before, check: Self::check_of(page, number, before) }
    }

    /// Whether it is what was written.
    pub(crate) fn is_sound(&self, page: u32) -> bool {
        self.check == Self::check_of(page, self.number, self.before)
    }

    fn check_of(page: u32, number: u32, before: u32) -> u32 {
        let crc = crc32c::crc32c_append(0x6261_7365, &page.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(crc, &number.to_le_bytes()), &before.to_le_bytes())
    }
}

impl SegmentFile {
    /// Opens or makes the file of a store's pages, and locks it. Nothing in it is changed but its length.
    ///
    /// Returns what speaks against it at once, if anything does.
    pub(crate) fn open(
        config: &TableConfig,
        directory: &Path,
        pages_max: u32,
    ) -> io::Result<(SegmentFile, Option<Doubt>)> {
        fs::create_dir_all(directory)?;
        if !is_on_tmpfs(directory)? {
            let what = "it is not on a tmpfs: the kernel would write every page of it to a disk again and again, and after \
                        a crash of the machine nothing of that is believed. Use a directory below /dev/shm";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let path = directory.join(sweep::file_name(&config.operator, config.shard));
        let file = sweep::open_locked(&path)?;
        let identity = Identity {
            version: VERSION,
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            operator: config.operator.clone(),
            shard: config.shard,
            range: config.range,
            pages_max,
            build: build()?,
        };
        let pages = pages_max as usize;
        let column = |at: usize, entry_bytes: usize| (at + pages * entry_bytes).next_multiple_of(PAGE_BYTES);
        let descriptors_at = HEAD_BYTES;
        let checksums_at = column(descriptors_at, size_of::<Descriptor>());
        let bases_at = column(checksums_at, size_of::<u32>());
        let pages_at = column(bases_at, size_of::<KeptBase>()).next_multiple_of(HUGE_BYTES);
        let log_at = (pages_at + pages * PAGE_BYTES).next_multiple_of(HUGE_BYTES);
        // Every page once per live barrier, of which there are two, and once more.
        let pieces_max = 3 * pages.div_ceil(PIECE_RECORDS) + 4;
        let bytes = log_at + pieces_max * PIECE_BYTES;
        let found_bytes = file.metadata()?.len();
        let (doubt, found_build) = match Self::read_identity(&file)? {
            _ if found_bytes == 0 => (Some(Doubt::Nothing), None),
            Err(doubt) => (Some(doubt), None),
            Ok(found) if found.boot_id != identity.boot_id => (Some(Doubt::Boot), None),
            // Another build's is believed all the same, but its entries are proven one by one: see `revive`.
            Ok(found) if (Identity { build: identity.build, ..found.clone() }) != identity => {
                (Some(Doubt::Identity), None)
            }
            Ok(_) if found_bytes != bytes as u64 => (Some(Doubt::Hole), None),
            Ok(found) => (None, Some(found.build)),
        };
        let mapping = MmapOptions::new().len(bytes).map_raw(&file)?;
        let segment = SegmentFile {
            mapping,
            file,
            path,
            identity,
            found_build,
            pages_max,
            descriptors_at,
            checksums_at,
            bases_at,
            pages_at,
            log_at,
            pieces_max: pieces_max as u32,
            grown_to: 0,
            trouble: None,
        };
        Ok((segment, doubt))
    }

    /// Reads whose it is, without the mapping: a hole read through that would want memory.
    fn read_identity(file: &File) -> io::Result<Result<Identity, Doubt>> {
        let mut head = vec![0; IDENTITY_BYTES];
        if file.read_at(&mut head, 0)? != IDENTITY_BYTES {
            return Ok(Err(Doubt::Hole));
        }
        let identity = sealed_text(&head).and_then(|text| serde_json::from_slice(text).ok());
        Ok(identity.ok_or(Doubt::Head))
    }

    /// Whether this program wrote what was found.
    pub(crate) fn is_of_this_build(&self) -> bool {
        self.found_build == Some(self.identity.build)
    }

    /// Throws everything away that is in the file, and says whose it is from now on.
    pub(crate) fn make_anew(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(self.mapping.len() as u64)?;
        self.grown_to = 0;
        self.allocate(0, HEAD_BYTES)?;
        self.sign()
    }

    /// Writes whose it is.
    pub(crate) fn sign(&mut self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.identity).expect("texts and numbers always serialise");
        if text.len() + 8 > IDENTITY_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the operator's name is too long for a segment's head",
            ));
        }
        let sealed = seal_text(&text);
        self.bytes_mut(0, sealed.len()).copy_from_slice(&sealed);
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.mapping.as_mut_ptr()
    }

    /// Bytes of the mapping. They have memory: the caller has seen to that.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= self.mapping.len(), "bytes {at} to {} of the segment", at + len);
        // SAFETY: inside the mapping, and always initialised; nobody writes there while `self` is borrowed, for pages are
        // handed out by the segment that this belongs to.
        unsafe { std::slice::from_raw_parts(self.start().add(at), len) }
    }

    /// The same, to be written.
    pub(crate) fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.mapping.len(), "bytes {at} to {} of the segment", at + len);
        // SAFETY: as in `bytes`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start().add(at), len) }
    }

    /// Stores a word in one piece, after everything before it in the program and before everything behind it. Of a thread
    /// that is killed, memory has a prefix of its stores in this order.
    pub(crate) fn publish(&mut self, at: usize, word: u64) {
        assert!(at.is_multiple_of(8) && at + 8 <= HEAD_BYTES, "a word of the head");
        compiler_fence(Ordering::SeqCst);
        // SAFETY: aligned, for mappings begin on a page, and inside the head.
        unsafe { self.start().add(at).cast::<u64>().write_volatile(word) };
        compiler_fence(Ordering::SeqCst);
    }

    pub(crate) fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().expect("eight bytes"))
    }

    /// What a descriptor says, but for the page that follows, which every restore finds out anew.
    pub(crate) fn descriptor(&self, page: u32) -> [u8; DESCRIPTOR_BYTES] {
        assert!(page < self.pages_max, "page {page} of {}", self.pages_max);
        let at = self.descriptors_at + page as usize * size_of::<Descriptor>();
        self.bytes(at, DESCRIPTOR_BYTES).try_into().expect("as many bytes as asked for")
    }

    /// What was noted of a page's contents.
    pub(crate) fn checksum(&self, page: u32) -> u32 {
        let at = self.checksums_at + page as usize * 4;
        u32::from_le_bytes(self.bytes(at, 4).try_into().expect("four bytes"))
    }

    pub(crate) fn set_checksum(&mut self, page: u32, checksum: u32) {
        let at = self.checksums_at + page as usize * 4;
        self.bytes_mut(at, 4).copy_from_slice(&checksum.to_le_bytes());
    }

    /// Of a page as it is: its descriptor, and its contents if it is in use.
    pub(crate) fn checksum_of(&self, page: u32) -> u32 {
        let at = self.pages_at + page as usize * PAGE_BYTES;
        checksum(page, &self.descriptor(page), self.bytes(at, PAGE_BYTES))
    }

    pub(crate) fn base(&self, page: u32) -> KeptBase {
        let at = self.bases_at + page as usize * size_of::<KeptBase>();
        let word = |nth: usize| u32::from_le_bytes(self.bytes(at + nth * 4, 4).try_into().expect("four bytes"));
        KeptBase { number: word(0), before: word(1), check: word(2) }
    }

    pub(crate) fn set_base(&mut self, page: u32, number: u32, before: u32) {
        let at = self.bases_at + page as usize * size_of::<KeptBase>();
        let KeptBase { number, before, check } = KeptBase::new(page, number, before);
        for (nth, word) in [number, before, check].into_iter().enumerate() {
            self.bytes_mut(at + nth * 4, 4).copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Copies a page's contents into the log, or back.
    pub(crate) fn copy_page(&mut self, from: usize, to: usize) {
        assert!(from.abs_diff(to) >= PAGE_BYTES && from.max(to) + PAGE_BYTES <= self.mapping.len(), "two pages");
        // SAFETY: both inside the mapping, and they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.start().add(from), self.start().add(to), PAGE_BYTES) };
    }

    pub(crate) fn page_at(&self, page: u32) -> usize {
        assert!(page < self.pages_max, "page {page} of {}", self.pages_max);
        self.pages_at + page as usize * PAGE_BYTES
    }

    pub(crate) fn piece_at(&self, piece: u32) -> usize {
        self.log_at + piece as usize * PIECE_BYTES
    }

    /// Makes sure that so many pages have memory, and their entries in the columns.
    pub(crate) fn grow(&mut self, pages: u32) -> bool {
        if pages <= self.grown_to {
            return true;
        }
        let step = (self.grown_to / 8).clamp(*GROW_PAGES.start(), *GROW_PAGES.end());
        let to = self.grown_to.saturating_add(step).max(pages).min(self.pages_max);
        let grown = self.page_ranges(self.grown_to, to).into_iter().try_for_each(|(at, len)| self.allocate(at, len));
        match grown {
            Ok(()) => {
                self.grown_to = to;
                true
            }
            Err(error) => {
                self.trouble = Some(error);
                false
            }
        }
    }

    /// Where in the file pages and what is said of them lie.
    fn page_ranges(&self, from: u32, to: u32) -> [(usize, usize); 4] {
        let range =
            |at: usize, entry_bytes: usize| (at + from as usize * entry_bytes, (to - from) as usize * entry_bytes);
        [
            range(self.descriptors_at, size_of::<Descriptor>()),
            range(self.checksums_at, size_of::<u32>()),
            range(self.bases_at, size_of::<KeptBase>()),
            range(self.pages_at, PAGE_BYTES),
        ]
    }

    /// Makes sure that the first pages have memory, wherever some is missing: that part is zero then, and its checksums
    /// tell whether it was so before.
    pub(crate) fn mend_pages(&mut self, pages: u32) -> io::Result<()> {
        self.page_ranges(0, pages).into_iter().try_for_each(|(at, len)| self.mend(at, len))?;
        self.grown_to = pages;
        Ok(())
    }

    /// The same for the head.
    pub(crate) fn mend_head(&self) -> io::Result<()> {
        self.allocate(0, HEAD_BYTES)
    }

    /// Takes the memory back of all pages from this one on: they are zero from here on.
    pub(crate) fn cut_pages(&mut self, from: u32) -> io::Result<()> {
        self.grown_to = from;
        self.page_ranges(from, self.pages_max).into_iter().try_for_each(|(at, len)| self.punch(at, len))
    }

    /// Makes sure that a piece of the log has memory.
    pub(crate) fn allocate_piece(&mut self, piece: u32) -> io::Result<()> {
        self.allocate(self.piece_at(piece), PIECE_BYTES)
    }

    pub(crate) fn cut_piece(&mut self, piece: u32) -> io::Result<()> {
        self.punch(self.piece_at(piece), PIECE_BYTES)
    }

    /// The pieces of which there is anything at all in the file.
    pub(crate) fn pieces(&self) -> Vec<u32> {
        let mut pieces = Vec::new();
        let mut at = self.log_at;
        while let Some(data) = self.seek(at, libc::SEEK_DATA) {
            let piece = ((data - self.log_at) / PIECE_BYTES) as u32;
            pieces.push(piece);
            at = self.piece_at(piece + 1);
        }
        pieces
    }

    fn seek(&self, at: usize, whence: libc::c_int) -> Option<usize> {
        // SAFETY: asks about a descriptor that is open; its offset is used by nobody.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), at as libc::off_t, whence) };
        usize::try_from(found).ok()
    }

    /// Looks for what has no memory, and no more: asking for all of it anew took 100 ns a page. What was asked for and never
    /// touched looks the same as what was taken away.
    fn mend(&self, at: usize, len: usize) -> io::Result<()> {
        let end = at + len;
        let mut at = at;
        while at < end {
            let hole = self.seek(at, libc::SEEK_HOLE).ok_or_else(io::Error::last_os_error)?;
            if hole >= end {
                break;
            }
            let data = self.seek(hole, libc::SEEK_DATA).unwrap_or(end).min(end);
            self.allocate(hole, data - hole)?;
            at = data;
        }
        Ok(())
    }

    fn allocate(&self, at: usize, len: usize) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_KEEP_SIZE, at, len)
    }

    fn punch(&self, at: usize, len: usize) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE, at, len)
    }

    fn fallocate(&self, mode: libc::c_int, at: usize, len: usize) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        // SAFETY: asks the kernel for memory, or to take it back, of a file that is ours.
        let failed =
            unsafe { libc::fallocate(self.file.as_raw_fd(), mode, at as libc::off_t, len as libc::off_t) } != 0;
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Asks for huge pages for everything that pages lie in.
    pub(crate) fn ask_for_huge_pages(&self) {
        // A kernel that was told to do without answers with an error, and the table is then merely slower.
        let _ = self.mapping.advise_range(Advice::HugePage, self.pages_at, self.pages_max as usize * PAGE_BYTES);
    }

    /// Has the first pages in the process's own page tables, by one system call. As if for reading: the kernel then takes
    /// sixteen neighbours at a time, and they can be written to all the same.
    pub(crate) fn populate(&self, pages: u32) {
        // A kernel too old for it answers with an error, and the faults come one by one.
        let _ = self.mapping.advise_range(Advice::PopulateRead, self.pages_at, pages as usize * PAGE_BYTES);
    }

    /// Reads from the log without the mapping: of what is read once, pages need not be mapped, and a hole wants no memory.
    pub(crate) fn read_log(&self, piece: u32, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, self.piece_at(piece) as u64)
    }

    /// Makes a piece one of no log.
    pub(crate) fn blot_piece(&self, piece: u32) -> io::Result<()> {
        self.file.write_all_at(&[0; 16], self.piece_at(piece) as u64)
    }

    /// Reads a piece's contents into pages, those of the records for which there is no page into none.
    pub(crate) fn read_contents(&mut self, piece: u32, to: &[Option<u32>]) -> io::Result<()> {
        let mut nowhere = [0u8; PAGE_BYTES];
        let mut vectors = Vec::with_capacity(to.len());
        for page in to {
            // SAFETY: `page_at` keeps it inside the mapping.
            let place = page.map_or(nowhere.as_mut_ptr(), |page| unsafe { self.start().add(self.page_at(page)) });
            vectors.push(libc::iovec { iov_base: place.cast(), iov_len: PAGE_BYTES });
        }
        let (fd, at) = (self.file.as_raw_fd(), self.piece_at(piece) + PAGE_BYTES);
        // SAFETY: every vector is a whole page of the mapping, borrowed exclusively, or of the buffer above, which nobody
        // reads; there are fewer of them than a call takes.
        let read = unsafe { libc::preadv(fd, vectors.as_ptr(), vectors.len() as libc::c_int, at as libc::off_t) };
        match usize::try_from(read) {
            Ok(read) if read == to.len() * PAGE_BYTES => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Removes the file; what is mapped goes with the last mapping.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Of a page: its number, its descriptor, and its contents if it is in use.
pub(crate) fn checksum(page: u32, descriptor: &[u8; DESCRIPTOR_BYTES], contents: &[u8]) -> u32 {
    let told = crc32c::crc32c_append(crc32c::crc32c(&page.to_le_bytes()), descriptor);
    if descriptor[KIND_AT] == Kind::Free as u8 { told } else { crc32c::crc32c_append(told, contents) }
}

/// `length 4 | crc32c 4 | text`.
pub(crate) fn seal_text(text: &[u8]) -> Vec<u8> {
    let length = (text.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), text);
    [&length[..], &crc.to_le_bytes(), text].concat()
}

/// The text, if it is what was sealed.
pub(crate) fn sealed_text(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let text = rest.get(..u32::from_le_bytes(*length) as usize)?;
    (crc32c::crc32c_append(crc32c::crc32c(length), text) == u32::from_le_bytes(*crc)).then_some(text)
}

/// The program, as far as it matters: whether its code may be another than the one that wrote a segment.
fn build() -> io::Result<u64> {
    let program = fs::metadata("/proc/self/exe")?;
    let told = [program.dev(), program.ino(), program.size(), program.mtime() as u64, program.mtime_nsec() as u64];
    Ok(hash::bytes(&told.map(u64::to_le_bytes).concat()))
}

fn is_on_tmpfs(directory: &Path) -> io::Result<bool> {
    let directory = File::open(directory)?;
    // SAFETY: all bytes zero is a `statfs`, which the kernel fills in.
    let mut answer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a descriptor that is open, and room for the answer.
    if unsafe { libc::fstatfs(directory.as_raw_fd(), &raw mut answer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer.f_type == libc::TMPFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_was_changed_anywhere_is_none() {
        let sealed = seal_text(b"{\"mill\":7}");
        assert_eq!(sealed_text(&sealed), Some(&b"{\"mill\":7}"[..]));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealed_text(&flipped), None, "bit {bit}");
        }
        assert_eq!(sealed_text(&[0; 64]), None, "zeros");
    }
}
