//! Restore: from a chain of files back to a table.
//!
//! The chain is read from its newest file to its oldest. What is newer stands: a line once filled, a page once whole or
//! gone, is not touched by older records, so every line is written once, and a page for which no whole record turns up
//! is noticed. Files are believed chunk by chunk; the pages they make up are then checked entry by entry: that keys and
//! values are valid for their types, that every key is where a search would look for it, that the prefixes fit together.
#![expect(unsafe_code, reason = "checks bytes read from disk as the keys and values they are about to be")]

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::chain::{Chain, SnapshotNumber};
use crate::directory::Space;
use crate::fixed::is_valid;
use crate::hash::prefix_of_depth;
use crate::page::{Geometry, is_zero, unpack};
use crate::segment::{Descriptor, Kind, LINE_BYTES, NO_PAGE, PAGE_BYTES};
use crate::snapshot::{CHUNK_BYTES, Damage, FileRef, Header, Record, VERSION, bits_of, verify};
use crate::{Fixed, Key, StateError, Store, Table, TableConfig};

/// What a restore did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Files of the chain.
    pub files: usize,
    /// Their bytes, all of which were read.
    pub bytes_read: u64,
    /// Pages that are live.
    pub pages: usize,
    /// Entries in them.
    pub entries: usize,
}

/// Why a table cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file cannot be read: mend that, and try again.
    #[error("{path}: cannot read the snapshot: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is damaged: fall back to the checkpoint before.
    #[error("{path}: chunk {chunk} is damaged: {what}. Restore from the checkpoint before", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where in it, in chunks of 512 KiB.
        chunk: u32,
        /// How.
        what: String,
    },
    /// The state is of other types than the operator's.
    #[error(
        "operator '{operator}': its stored {what} is {stored}, and the job's is {wanted}. \
         Give the operator its old types back, or another name to start without this state"
    )]
    Types {
        /// Whose state.
        operator: String,
        /// The part that does not fit.
        what: &'static str,
        /// As stored.
        stored: String,
        /// As the job has it.
        wanted: String,
    },
    /// A file of a format this build does not read.
    #[error("{path}: snapshot format {found}, and this build reads {VERSION}: run the build that wrote it", path = path.display())]
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u8,
    },
    /// Every file is sound, but together they are no state: fall back to the checkpoint before.
    #[error(
        "operator '{operator}' on shard {shard}: its snapshots do not fit together: {what}. Restore from the checkpoint before"
    )]
    Contradiction {
        /// Whose state.
        operator: String,
        /// On which shard.
        shard: u32,
        /// What does not fit.
        what: String,
    },
    /// The table has no room for it.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What is known of a page while the chain is being read; kept in the column that snapshots use later.
mod seen {
    pub(super) const NOTHING: u32 = 0;
    pub(super) const LINES: u32 = 1;
    pub(super) const WHOLE: u32 = 2;
    pub(super) const GONE: u32 = 3;
}

impl<K: Key, V: Fixed> Table<K, V> {
    /// The table as it was when the newest file of the chain was frozen. An empty chain is an empty table.
    pub fn restore(config: TableConfig, store: &Store, chain: &[FileRef]) -> Result<(Self, Restored), RestoreError> {
        let mut table = Table::new(config.clone())?;
        let mut restored = Restored { files: chain.len(), ..Restored::default() };
        let mut handed_out = 0;
        for (at, file) in chain.iter().enumerate().rev() {
            restored.bytes_read += table.read_file(store, file, at as SnapshotNumber + 1, &mut handed_out)?;
        }
        let contradiction = |what| {
            let TableConfig { operator, shard, .. } = config.clone();
            RestoreError::Contradiction { operator, shard, what }
        };
        for page in 0..handed_out {
            let segment = &mut table.pages.segment;
            let seen = segment.drained.get(page);
            segment.drained.set(page, 0);
            segment.frozen.set(page, 0);
            match seen {
                seen::WHOLE => {
                    table.prove_page(page).map_err(|what| contradiction(format!("page {page} {what}")))?;
                    restored.pages += 1;
                    restored.entries += table.pages.segment.descriptors.get(page).count as usize;
                }
                seen::LINES => return Err(contradiction(format!("page {page} was never written whole"))),
                _ => {}
            }
        }
        table.adopt(handed_out, Chain::of_files(chain)).map_err(contradiction)?;
        Ok((table, restored))
    }

    /// Reads one file; older ones follow.
    fn read_file(
        &mut self,
        store: &Store,
        file: &FileRef,
        number: SnapshotNumber,
        handed_out: &mut u32,
    ) -> Result<u64, RestoreError> {
        let path = store.path(&file.name);
        let read = |source| RestoreError::Read { path: path.clone(), source };
        let mut opened = store.reader(file).map_err(read)?;
        let damaged = |chunk, what: &str| RestoreError::Damaged { path: path.clone(), chunk, what: what.to_owned() };
        if opened.len() != file.bytes {
            return Err(damaged(0, "the file is not as long as the manifest says"));
        }
        let geometry = self.pages.geometry;
        let mut buffer = glommio::allocate_dma_buffer_global(CHUNK_BYTES);
        let (mut bytes, mut crcs, mut records, mut ended) = (0, 0, 0, false);
        for index in 0.. {
            let len = CHUNK_BYTES.min((file.bytes - bytes) as usize);
            if len == 0 {
                break;
            }
            opened.read_exact(&mut buffer.as_bytes_mut()[..len]).map_err(read)?;
            bytes += len as u64;
            let chunk =
                verify(&buffer.as_bytes()[..len], index).map_err(|damage| damaged(index, &damage.to_string()))?;
            let before = crcs;
            crcs = crc32c::crc32c_append(crcs, &chunk.crc32c.to_le_bytes());
            chunk
                .records(&geometry, |record| {
                    if ended || (records == 0) != matches!(record, Record::Header { .. }) {
                        return Err(Trouble::What("a header or footer is not where it belongs"));
                    }
                    match record {
                        Record::Header { version, text } => self.check_header(&path, version, text)?,
                        Record::Footer { records: wanted, crcs: wanted_crcs } => {
                            ended = true;
                            if (records, before) != (wanted, wanted_crcs) {
                                return Err(Trouble::What("the footer speaks of other records"));
                            }
                        }
                        Record::Whole { page, descriptor, bitmap, keys, values } => {
                            self.reach(page, handed_out)?;
                            self.place_whole(page, descriptor, bitmap, keys, values, number);
                        }
                        Record::Lines { page, count, mask, lines } => {
                            self.reach(page, handed_out)?;
                            self.place_lines(page, count, mask, lines);
                        }
                        Record::Gone { page } => {
                            self.reach(page, handed_out)?;
                            if self.pages.segment.drained.get(page) == seen::NOTHING {
                                self.pages.segment.drained.set(page, seen::GONE);
                            }
                        }
                    }
                    records += 1;
                    Ok(())
                })
                .map_err(|trouble| match trouble {
                    Trouble::What(what) => damaged(index, what),
                    Trouble::Damage(damage) => damaged(index, &damage.to_string()),
                    Trouble::Final(error) => *error,
                })?;
        }
        if !ended || crcs != file.crc32c {
            return Err(damaged(0, "the file is whole, but not the one that the manifest names"));
        }
        Ok(bytes)
    }

    fn check_header(&self, path: &Path, version: u8, text: &[u8]) -> Result<(), Trouble> {
        let path = path.to_owned();
        if version != VERSION {
            return Err(Trouble::Final(Box::new(RestoreError::Version { path, found: version })));
        }
        let stored: Header = serde_json::from_slice(text).map_err(|_| Trouble::What("its header cannot be read"))?;
        let wanted = &self.pages.header;
        let types = |what, stored: &dyn ToString, wanted: &dyn ToString| {
            let operator = self.pages.header.operator.clone();
            let (stored, wanted) = (stored.to_string(), wanted.to_string());
            Trouble::Final(Box::new(RestoreError::Types { operator, what, stored, wanted }))
        };
        if stored.operator != wanted.operator {
            return Err(types("name", &stored.operator, &wanted.operator));
        }
        if stored.key_type != wanted.key_type {
            return Err(types("key type", &stored.key_type, &wanted.key_type));
        }
        if stored.value_type != wanted.value_type {
            return Err(types("value type", &stored.value_type, &wanted.value_type));
        }
        if stored.key_bytes != wanted.key_bytes {
            return Err(types("key size in bytes", &stored.key_bytes, &wanted.key_bytes));
        }
        if stored.value_bytes != wanted.value_bytes {
            return Err(types("value size in bytes", &stored.value_bytes, &wanted.value_bytes));
        }
        Ok(())
    }

    /// Makes sure that there can be such a page.
    fn reach(&mut self, page: u32, handed_out: &mut u32) -> Result<(), Trouble> {
        if page >= self.pages.segment.pages_max() {
            return Err(Trouble::Final(Box::new(self.full().into())));
        }
        if page >= *handed_out {
            *handed_out = page + 1;
            self.pages.segment.grown_to(*handed_out);
        }
        Ok(())
    }

    fn place_whole(&mut self, page: u32, written: Descriptor, bitmap: &[u8], keys: &[u8], values: &[u8], number: u32) {
        let segment = &mut self.pages.segment;
        let seen = segment.drained.get(page);
        if matches!(seen, seen::WHOLE | seen::GONE) {
            return;
        }
        let filled = segment.frozen.get(page);
        // A newer record of some lines has the newer count; all else is as it was when the page was written whole.
        let count = if seen == seen::LINES { segment.descriptors.get(page).count } else { written.count };
        segment.descriptors.set(page, Descriptor { count, next: NO_PAGE, ..written });
        segment.drained.set(page, seen::WHOLE);
        segment.base.set(page, number);
        unpack::<K, V>(segment.page_mut(page), filled, bitmap, keys, values);
    }

    fn place_lines(&mut self, page: u32, count: u16, mask: u64, lines: &[u8]) {
        let segment = &mut self.pages.segment;
        let seen = segment.drained.get(page);
        if matches!(seen, seen::WHOLE | seen::GONE) {
            return;
        }
        if seen == seen::NOTHING {
            segment.descriptors.set(page, Descriptor { count, ..Descriptor::default() });
            segment.drained.set(page, seen::LINES);
        }
        let filled = segment.frozen.get(page);
        segment.frozen.set(page, filled | mask);
        let body = segment.page_mut(page);
        for (from, line) in lines.chunks_exact(LINE_BYTES).zip(bits_of(mask)) {
            if filled >> line & 1 == 0 {
                body[line * LINE_BYTES..][..LINE_BYTES].copy_from_slice(from);
            }
        }
    }

    /// Checks a page's entries before anybody sees them as keys and values.
    fn prove_page(&self, page: u32) -> Result<(), String> {
        let geometry = const { Geometry::of::<K, V>() };
        let descriptor = self.pages.segment.descriptors.get(page);
        let body = self.pages.segment.page(page);
        let is_valid = |key_at: usize, value_at: usize| {
            // SAFETY: the geometry keeps keys and values inside the page and aligned; its bytes are initialised.
            unsafe { is_valid::<K>(body[key_at..].as_ptr()) && is_valid::<V>(body[value_at..].as_ptr()) }
        };
        if descriptor.kind == Kind::Zero {
            let valid = is_valid(0, geometry.values_at);
            return if valid { Ok(()) } else { Err("has a value that is not one of its type".to_owned()) };
        }
        let mut count = 0;
        for bucket in 0..geometry.buckets() {
            let bucket_at = bucket * geometry.bucket_lines * LINE_BYTES;
            let mut ended = false;
            for slot in 0..geometry.slots {
                let key_at = bucket_at + slot * geometry.key_bytes;
                if is_zero(&body[key_at..key_at + geometry.key_bytes]) {
                    ended = true;
                    continue;
                }
                let trouble = if ended {
                    "has a gap before an entry"
                } else if !is_valid(key_at, bucket_at + geometry.values_at + slot * geometry.value_bytes) {
                    "has a key or value that is not one of its type"
                } else {
                    // SAFETY: just found valid, and aligned by the geometry.
                    let hash = unsafe { &*body[key_at..].as_ptr().cast::<K>() }.hash64();
                    if prefix_of_depth(hash, descriptor.depth) == descriptor.prefix
                        && leads_to(&geometry, body, hash, bucket)
                    {
                        count += 1;
                        continue;
                    }
                    "has a key that its hash does not lead to; was the key's hash64 changed?"
                };
                return Err(format!("{trouble} (line {}, slot {slot})", bucket * geometry.bucket_lines));
            }
        }
        if count != descriptor.count as usize {
            return Err(format!("has {count} entries and should have {}", descriptor.count));
        }
        Ok(())
    }

    /// Rebuilds the namespaces from the pages' descriptors; `Err` says what contradicts what.
    fn adopt(&mut self, handed_out: u32, chain: Chain) -> Result<(), String> {
        self.pages.adopt(handed_out, chain);
        let mut pages: Vec<(u32, Descriptor)> = (0..handed_out)
            .map(|page| (page, self.pages.segment.descriptors.get(page)))
            .filter(|(_, descriptor)| descriptor.kind != Kind::Free)
            .collect();
        // Pages that share a prefix follow each other, the full ones first: that is the order in which they are searched.
        pages.sort_by_key(|&(page, d)| (d.namespace, d.kind, d.prefix, d.depth, std::cmp::Reverse(d.count), page));
        for space_pages in pages.chunk_by(|(_, one), (_, other)| one.namespace == other.namespace) {
            let mut space = Space::new(space_pages[0].1.namespace);
            let mut firsts: Vec<(u32, Descriptor)> = Vec::new();
            let mut last = (NO_PAGE, Descriptor::default());
            for &(page, descriptor) in space_pages {
                space.pages.push(page);
                space.len += descriptor.count as usize;
                if descriptor.kind == Kind::Zero {
                    if space.zero != NO_PAGE || descriptor.count != 1 {
                        return Err(format!("page {page} is a second page, or an empty one, of the zero key"));
                    }
                    space.zero = page;
                } else if (last.1.prefix, last.1.depth) == (descriptor.prefix, descriptor.depth) && last.0 != NO_PAGE {
                    if last.1.count as usize != const { Self::GEOMETRY }.capacity {
                        return Err(format!("page {page} follows page {}, which is not full", last.0));
                    }
                    self.pages.segment.descriptors.set(last.0, Descriptor { next: page, ..last.1 });
                    last = (page, descriptor);
                } else {
                    firsts.push((page, descriptor));
                    last = (page, descriptor);
                }
            }
            space.rebuild(&firsts)?;
            self.spaces.push(space);
        }
        Ok(())
    }
}

/// Whether a search comes to the bucket: from where the hash says, over full buckets.
#[inline(always)]
fn leads_to(geometry: &Geometry, body: &[u8; PAGE_BYTES], hash: u64, bucket: usize) -> bool {
    let mut on_the_way = geometry.line(hash) / geometry.bucket_lines;
    while on_the_way != bucket {
        let last_key_at = geometry.key_at(on_the_way * geometry.slots + geometry.slots - 1);
        if is_zero(&body[last_key_at..last_key_at + geometry.key_bytes]) {
            return false;
        }
        on_the_way = (on_the_way + 1) % geometry.buckets();
    }
    true
}

/// What stops the reading of a chunk.
enum Trouble {
    Damage(Damage),
    What(&'static str),
    Final(Box<RestoreError>),
}

impl From<Damage> for Trouble {
    fn from(damage: Damage) -> Trouble {
        Trouble::Damage(damage)
    }
}
