//! The auditor: the kernel says which pages were written, and every one of them must be marked.
//!
//! userfaultfd write-protects a table's pages without ever stopping a write (`WP_ASYNC`), and PAGEMAP_SCAN lists the
//! pages written since, and protects them again. A mark that was forgotten is then a failed test instead of an update
//! that the next restore has not heard of. Only a test can afford it: 115 ns an update in memory that is not cached.
#![expect(unsafe_code, reason = "two ioctls that no crate offers")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::segment::{Kind, PAGE_BYTES};
use crate::{Drained, Epoch, Key, Namespace, Table, TableConfig};

/// linux/userfaultfd.h and linux/fs.h, as numbers.
mod kernel {
    pub(super) const UFFD_USER_MODE_ONLY: libc::c_long = 1;
    pub(super) const UFFD_API: u64 = 0xAA;
    pub(super) const PAGEFAULT_FLAG_WP: u64 = 1;
    pub(super) const WP_UNPOPULATED: u64 = 1 << 13;
    pub(super) const WP_ASYNC: u64 = 1 << 15;
    pub(super) const REGISTER_MODE_WP: u64 = 1 << 1;
    pub(super) const WRITEPROTECT_MODE_WP: u64 = 1;
    pub(super) const PM_SCAN_WP_MATCHING: u64 = 1;
    pub(super) const PM_SCAN_CHECK_WPASYNC: u64 = 2;
    pub(super) const PAGE_IS_WRITTEN: u64 = 2;

    const fn read_write(group: u64, number: u64, bytes: u64) -> u64 {
        3 << 30 | bytes << 16 | group << 8 | number
    }
    pub(super) const UFFDIO_API: u64 = read_write(0xAA, 0x3F, 24);
    pub(super) const UFFDIO_REGISTER: u64 = read_write(0xAA, 0, 32);
    pub(super) const UFFDIO_WRITEPROTECT: u64 = read_write(0xAA, 6, 24);
    pub(super) const PAGEMAP_SCAN: u64 = read_write(b'f' as u64, 16, 96);
}

struct Auditor {
    start: u64,
    bytes: u64,
    _fault: OwnedFd,
    pagemap: File,
}

fn call<const WORDS: usize>(fd: i32, request: u64, argument: &mut [u64; WORDS]) -> io::Result<i32> {
    // SAFETY: every request is called with the words its structure has; what they point to outlives the call.
    let answer = unsafe { libc::ioctl(fd, request, argument.as_mut_ptr()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

impl Auditor {
    fn of<K: Key>(table: &Table<K, u64>) -> io::Result<Auditor> {
        // SAFETY: creates a descriptor, or says why not.
        let open = |flags: libc::c_long| unsafe {
            libc::syscall(libc::SYS_userfaultfd, libc::c_long::from(libc::O_CLOEXEC) | flags)
        };
        let fd = [0, kernel::UFFD_USER_MODE_ONLY].into_iter().map(open).find(|fd| *fd >= 0);
        let fd = fd.ok_or_else(io::Error::last_os_error)? as i32;
        // SAFETY: just opened, and nobody else's.
        let fault = unsafe { OwnedFd::from_raw_fd(fd) };
        let features = kernel::WP_ASYNC | kernel::WP_UNPOPULATED | kernel::PAGEFAULT_FLAG_WP;
        call(fd, kernel::UFFDIO_API, &mut [kernel::UFFD_API, features, 0])?;
        let segment = &table.pages.segment;
        let (start, bytes) = (segment.pages_start() as u64, u64::from(segment.pages_max()) * PAGE_BYTES as u64);
        call(fd, kernel::UFFDIO_REGISTER, &mut [start, bytes, kernel::REGISTER_MODE_WP, 0])?;
        call(fd, kernel::UFFDIO_WRITEPROTECT, &mut [start, bytes, kernel::WRITEPROTECT_MODE_WP])?;
        Ok(Auditor { start, bytes, _fault: fault, pagemap: File::open("/proc/self/pagemap")? })
    }

    /// The pages written since the last time, protected again.
    fn written(&self) -> io::Result<Vec<u32>> {
        let mut written = Vec::new();
        let mut regions = vec![[0u64; 3]; 1024];
        let (mut from, end) = (self.start, self.start + self.bytes);
        while from < end {
            let mut argument = [0u64; 12];
            argument[0] = 96;
            argument[1] = kernel::PM_SCAN_WP_MATCHING | kernel::PM_SCAN_CHECK_WPASYNC;
            (argument[2], argument[3]) = (from, end);
            (argument[5], argument[6]) = (regions.as_mut_ptr() as u64, regions.len() as u64);
            (argument[9], argument[11]) = (kernel::PAGE_IS_WRITTEN, kernel::PAGE_IS_WRITTEN);
            let found = call(self.pagemap.as_raw_fd(), kernel::PAGEMAP_SCAN, &mut argument)?;
            for [first, last, _] in &regions[..found as usize] {
                let number = |address: u64| ((address - self.start) / PAGE_BYTES as u64) as u32;
                written.extend(number(*first)..number(*last));
            }
            from = argument[4];
        }
        Ok(written)
    }
}

/// A few thousand random steps under audit; returns how many page writes the kernel saw.
fn audit<K: Key>(key: impl Fn(u64) -> K) -> io::Result<usize> {
    let config = TableConfig { operator: "audited".into(), shard: 0, bytes_max: 64 << 20, ..TableConfig::default() };
    let mut table: Table<K, u64> = Table::new(config).expect("64 MiB of address space");
    let auditor = Auditor::of(&table)?;
    let mut random = 88_172_645_463_325_252u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut seen = 0;
    for epoch in 1..200 {
        for _ in 0..next(8) {
            let namespace = Namespace(next(4) as i64);
            if next(12) == 0 {
                table.drop_namespace(namespace);
            }
            let keys: Vec<K> = (0..next(400)).map(|_| key(next(6000))).collect();
            let folded = table.fold(namespace, keys.len(), |row| keys[row], || 1, |value, _row| *value += 1);
            folded.expect("64 MiB are enough");
            let _ = table.drain(next(20_000) as usize);
        }
        while table.drain(usize::MAX) == Drained::More {}
        while table.take_chunk().is_some() {}
        if next(3) == 0 {
            table.abort();
        } else if epoch > 1 && table.pages.open.is_some() {
            let file = crate::FileRef { name: String::new(), bytes: 0, crc32c: 0 };
            table.confirm(Some(file));
        }
        for page in auditor.written()? {
            seen += 1;
            let segment = &table.pages.segment;
            // What was written to a page that is free by now is nobody's.
            let free = segment.descriptors.get(page).kind == Kind::Free;
            assert!(free || segment.masks.get(page) != 0, "page {page} was written and not marked, in epoch {epoch}");
        }
        table.freeze(Epoch(epoch));
    }
    Ok(seen)
}

#[test]
fn every_page_the_kernel_saw_written_is_marked() {
    let text = |n: u64| crate::Text::<36>::try_from(format!("{n:036}").as_str()).expect("36 digits");
    let wide = |n: u64| {
        let mut key = [1u8; 200];
        key[..8].copy_from_slice(&n.to_le_bytes());
        key
    };
    match audit(|n| n).and_then(|numbers| Ok([numbers, audit(text)?, audit(wide)?])) {
        Ok(seen) => assert!(seen.iter().all(|&pages| pages > 1000), "the auditor saw only {seen:?} page writes"),
        Err(error) => eprintln!("not audited: this system does not allow userfaultfd or PAGEMAP_SCAN: {error}"),
    }
}
