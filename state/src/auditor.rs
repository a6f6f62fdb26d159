//! The auditor: the kernel says which pages were written, and every one of them must be marked.
//!
//! userfaultfd write-protects a table's pages without ever stopping a write (`WP_ASYNC`), and PAGEMAP_SCAN lists the
//! pages written since, and protects them again. A mark that was forgotten is then a failed test instead of an update
//! that the next restore has not heard of. Only a test can afford it: 115 ns an update in memory that is not cached.
#![expect(unsafe_code, reason = "two ioctls that no crate offers")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::segment::{Kind, LINE_BYTES, PAGE_BYTES};
use crate::{Drained, Epoch, Key, Namespace, PageStore, SlottedTable, Table, TableConfig};

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
    fn of(store: &PageStore) -> io::Result<Auditor> {
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
        let segment = &store.pages.segment;
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

    /// Counts the pages written since the last time, every one of which must be marked.
    fn check(&self, store: &PageStore, epoch: u64) -> io::Result<usize> {
        let written = self.written()?;
        for &page in &written {
            let segment = &store.pages.segment;
            // What was written to a page that is free by now is nobody's.
            let free = segment.descriptors.get(page).kind == Kind::Free;
            assert!(free || segment.masks.get(page) != 0, "page {page} was written and not marked, in epoch {epoch}");
        }
        Ok(written.len())
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// The pages as they were at the last barrier, to tell which lines have changed since.
#[derive(Default)]
struct Shadow(Vec<[u8; PAGE_BYTES]>);

impl Shadow {
    fn take(&mut self, store: &PageStore) {
        let pages = &store.pages;
        self.0.clear();
        self.0.extend((0..pages.handed_out).map(|page| *pages.segment.page(page)));
    }

    /// Every line that is not what it was is marked.
    fn check(&self, store: &PageStore, epoch: u64) {
        let segment = &store.pages.segment;
        for (page, before) in (0..).zip(&self.0) {
            let (mask, is_free) = (segment.masks.get(page), segment.descriptors.get(page).kind == Kind::Free);
            let lines = before.chunks(LINE_BYTES).zip(segment.page(page).chunks(LINE_BYTES)).enumerate();
            for (line, _) in lines.filter(|(_, (before, now))| !is_free && before != now) {
                assert!(
                    mask >> line & 1 == 1,
                    "line {line} of page {page} changed and is not marked, in epoch {epoch}"
                );
            }
        }
    }
}

/// A few thousand random steps under audit: `step` changes states of the store. Returns how many page writes the kernel saw.
fn audit(store: &mut PageStore, mut step: impl FnMut(&mut Random)) -> io::Result<usize> {
    let auditor = Auditor::of(store)?;
    let mut random = Random(88_172_645_463_325_252);
    let mut shadow = Shadow::default();
    let mut seen = 0;
    for epoch in 1..200 {
        for _ in 0..random.below(8) {
            step(&mut random);
            let _ = store.drain(random.below(20_000) as usize);
        }
        while store.drain(usize::MAX) == Drained::More {}
        while store.take_chunk().is_some() {}
        if random.below(3) == 0 {
            store.abort();
        } else if epoch > 1 && store.pages.open.is_some() {
            let file = crate::FileRef { name: String::new(), bytes: 0, crc32c: 0 };
            store.confirm(Some(file));
        }
        seen += auditor.check(store, epoch)?;
        shadow.check(store, epoch);
        store.freeze(Epoch(epoch));
        shadow.take(store);
    }
    Ok(seen)
}

fn store() -> PageStore {
    let config = TableConfig { operator: "audited".into(), bytes_max: 64 << 20, ..TableConfig::default() };
    PageStore::new(config).expect("64 MiB of address space")
}

/// One random change of a flat state.
fn change_flat<K: Key>(table: &mut Table<K, u64>, random: &mut Random, key: impl Fn(u64) -> K) {
    let namespace = Namespace(random.below(4) as i64);
    match random.below(12) {
        0 => table.drop_namespace(namespace),
        1..4 => {
            for _ in 0..random.below(300) {
                let _ = table.remove(namespace, &key(random.below(6000)));
            }
        }
        _ => {}
    }
    let keys: Vec<K> = (0..random.below(400)).map(|_| key(random.below(6000))).collect();
    let folded = table.fold(namespace, keys.len(), |row| keys[row], || 1, |value, _row| *value += 1);
    folded.expect("64 MiB are enough");
}

/// One random change of a slotted state: values come in all lengths, are changed in place, go, and end.
fn change_slotted(table: &mut SlottedTable<String, (u64, Vec<u8>)>, random: &mut Random, now_ms: i64) {
    let namespace = Namespace(random.below(3) as i64);
    table.set_now(now_ms);
    match random.below(10) {
        0 => table.drop_namespace(namespace),
        1 => {
            table.expire(namespace, &mut 0, random.below(40) as usize);
        }
        _ => {}
    }
    for _ in 0..random.below(60) {
        let key = format!("key {}", random.below(800));
        match random.below(6) {
            0 => {
                table.remove(namespace, &key);
            }
            1 | 2 => {
                table.update(namespace, &key, |value| {
                    rkyv::munge::munge!(let rkyv::tuple::ArchivedTuple2(mut count, _) = value);
                    *count = (count.to_native() + 1).into();
                });
            }
            _ => {
                let len = [20, 20, 20, 20, 20, 20, 300, 3_000, 15_000][random.below(9) as usize];
                let value = (7, vec![random.below(256) as u8; random.below(len) as usize]);
                let ends_ms = if random.below(3) == 0 { now_ms + random.below(50) as i64 } else { 0 };
                table.put_until(namespace, &key, &value, ends_ms).expect("64 MiB are enough");
            }
        }
    }
}

fn audit_flat<K: Key>(key: impl Fn(u64) -> K) -> io::Result<usize> {
    let mut store = store();
    let mut table = store.table("flat");
    audit(&mut store, |random| change_flat(&mut table, random, &key))
}

/// Of several states in one store.
fn audit_all() -> io::Result<usize> {
    let mut store = store();
    let (mut numbers, mut texts) = (store.table("numbers"), store.table("texts"));
    let (mut one, mut other) = (store.slotted("one"), store.slotted("other"));
    let mut now_ms = 0;
    audit(&mut store, |random| {
        now_ms += 1;
        match random.below(6) {
            0 => change_flat(&mut numbers, random, |n| n),
            1 => change_flat(&mut texts, random, text),
            2 => change_slotted(&mut other, random, now_ms),
            _ => change_slotted(&mut one, random, now_ms),
        }
    })
}

fn text(number: u64) -> crate::Text<36> {
    crate::Text::try_from(format!("{number:036}").as_str()).expect("36 digits")
}

#[test]
fn every_page_the_kernel_saw_written_is_marked() {
    let wide = |n: u64| {
        let mut key = [1u8; 200];
        key[..8].copy_from_slice(&n.to_le_bytes());
        key
    };
    match audit_flat(|n| n).and_then(|numbers| Ok([numbers, audit_flat(text)?, audit_flat(wide)?, audit_all()?])) {
        Ok(seen) => assert!(seen.iter().all(|&pages| pages > 1000), "the auditor saw only {seen:?} page writes"),
        Err(error) => eprintln!("not audited: this system does not allow userfaultfd or PAGEMAP_SCAN: {error}"),
    }
}
