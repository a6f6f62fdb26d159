//! The chain: the snapshot files that together are the state, and how many pages still lean on each.
//!
//! A page's *base* is the newest file with a whole record of it; newer files may add lines. The oldest file that is any
//! page's base starts the chain, so a file falls out of it once every page that leaned on it was written whole again, or
//! given up. Counting the pages per file makes that a comparison with zero.

use std::collections::VecDeque;

use crate::snapshot::FileRef;

/// The number of a snapshot within one table's life: 1, 2, … in the order of the files. (An epoch will not do: some
/// leave no file, and a failed one is counted anew.)
pub(crate) type SnapshotNumber = u32;

#[derive(Debug)]
struct Link {
    number: SnapshotNumber,
    /// None while the file is being written.
    file: Option<FileRef>,
    /// Pages whose base it is, and given-up pages of which no file says so yet.
    bases: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Chain {
    links: VecDeque<Link>,
    last_number: SnapshotNumber,
}

impl Chain {
    /// A chain of files read back, the oldest first, with numbers from 1.
    pub(crate) fn of_files(files: &[FileRef]) -> Chain {
        let links = (1..).zip(files).map(|(number, file)| Link { number, file: Some(file.clone()), bases: 0 });
        Chain { links: links.collect(), last_number: files.len() as SnapshotNumber }
    }

    /// The same with the numbers that the files had in another process; `last_number` is the highest one given there.
    pub(crate) fn of_numbered(files: &[FileRef], numbers: &[SnapshotNumber], last_number: SnapshotNumber) -> Chain {
        let links = numbers.iter().zip(files);
        let links = links.map(|(&number, file)| Link { number, file: Some(file.clone()), bases: 0 });
        Chain { links: links.collect(), last_number }
    }

    /// The highest number given so far.
    pub(crate) fn last_number(&self) -> SnapshotNumber {
        self.last_number
    }

    /// The numbers of what [`files`](Chain::files) names.
    pub(crate) fn numbers(&self, with_newest: bool) -> Vec<SnapshotNumber> {
        let needed = self.links.iter().skip_while(|link| link.bases == 0);
        needed.filter(|link| link.file.is_some() || with_newest).map(|link| link.number).collect()
    }

    /// Adds the file that is going to be written.
    pub(crate) fn open(&mut self) -> SnapshotNumber {
        self.last_number += 1;
        self.links.push_back(Link { number: self.last_number, file: None, bases: 0 });
        self.last_number
    }

    /// A page leans on this file; on none, if the number is 0.
    pub(crate) fn lean(&mut self, number: SnapshotNumber) {
        if let Some(link) = self.link(number) {
            link.bases += 1;
        }
    }

    /// A page does so no more.
    pub(crate) fn leave(&mut self, number: SnapshotNumber) {
        if let Some(link) = self.link(number) {
            link.bases -= 1;
        }
    }

    fn link(&mut self, number: SnapshotNumber) -> Option<&mut Link> {
        // A dozen links, the wanted one mostly at either end.
        let link = self.links.iter_mut().rev().find(|link| link.number == number);
        assert!(link.is_some() || number == 0, "a page leans on snapshot {number}, which left the chain");
        link
    }

    /// What a restore would have to read, the open file being `newest`.
    pub(crate) fn files(&self, newest: Option<&FileRef>) -> Vec<FileRef> {
        let needed = self.links.iter().skip_while(|link| link.bases == 0);
        needed.filter_map(|link| link.file.as_ref().or(newest)).cloned().collect()
    }

    /// Bytes of the files a restore would have to read, without the open one.
    pub(crate) fn bytes(&self) -> u64 {
        let needed = self.links.iter().skip_while(|link| link.bases == 0);
        needed.filter_map(|link| link.file.as_ref()).map(|file| file.bytes).sum()
    }

    /// The open file is part of a checkpoint; or there was nothing to write, and it never was. What nobody leans on
    /// leaves the chain.
    pub(crate) fn confirm(&mut self, file: Option<FileRef>) {
        match file {
            Some(file) => {
                let newest = self.links.back_mut().expect("confirm follows open");
                assert!(newest.file.is_none(), "confirm follows open");
                newest.file = Some(file);
            }
            None => self.withdraw(),
        }
        while self.links.front().is_some_and(|link| link.bases == 0) {
            self.links.pop_front();
        }
    }

    /// The open file came to nothing.
    pub(crate) fn withdraw(&mut self) {
        let newest = self.links.pop_back().expect("withdraw follows open");
        assert!(newest.file.is_none() && newest.bases == 0, "pages lean on a file that never was");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: u64) -> FileRef {
        FileRef { name: name.to_owned(), bytes, crc32c: 0 }
    }

    fn names(files: &[FileRef]) -> Vec<&str> {
        files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn a_file_leaves_when_nobody_leans_on_it() {
        let mut chain = Chain::default();
        let first = chain.open();
        chain.lean(first);
        chain.lean(first);
        chain.confirm(Some(file("one", 10)));
        let second = chain.open();
        chain.leave(first);
        chain.lean(second);
        let newest = file("two", 20);
        assert_eq!(names(&chain.files(Some(&newest))), ["one", "two"]);
        assert_eq!(chain.bytes(), 10);
        chain.confirm(Some(newest));
        let third = chain.open();
        chain.leave(first);
        chain.lean(third);
        let newest = file("three", 5);
        assert_eq!(names(&chain.files(Some(&newest))), ["two", "three"]);
        chain.confirm(Some(newest));
        assert_eq!((names(&chain.files(None)), chain.bytes()), (vec!["two", "three"], 25));
        chain.open();
        chain.withdraw();
        chain.open();
        chain.confirm(None);
        assert_eq!(names(&chain.files(None)), ["two", "three"]);
    }
}
