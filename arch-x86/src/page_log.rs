//! The page-modification log: guest-physical addresses of pages in which hardware set D.

use pgtable::Gpa;

/// Entries of a log: a page of 4 KiB.
pub const PML_ENTRIES: usize = 512;

/// The guest-physical addresses in the page-modification log `log`, in the order in which they were
/// logged.
///
/// `index` is the VMCS field "PML index", or PML_INDEX of a VMCB: the entry that hardware writes
/// next. It begins at 511 and counts down; after entry 0 it is 0xffff, and the next store to a
/// clean page exits (SDM vol. 3, "Page-Modification Logging"; APM vol. 2, "Page Modification
/// Logging"). Any index beyond 511 means that all entries were written.
///
/// Hardware writes the log while the guest runs; read it when the vCPU has exited, then set the
/// index back to 511.
///
/// ```
/// use pgtable_x86::{PML_ENTRIES, logged_pages};
/// use pgtable::Gpa;
///
/// let mut log = [0; PML_ENTRIES];
/// [log[511], log[510]] = [0x5000, 0x9000];
/// assert!(logged_pages(&log, 509).eq([0x5000, 0x9000].map(Gpa::new)));
/// assert_eq!(logged_pages(&log, 511).count(), 0);
/// assert_eq!(logged_pages(&log, 0xffff).count(), 512);
/// ```
///
/// [`clear_logged`](pgtable::second_stage::Stage2Tree::clear_logged) takes them.
pub fn logged_pages(log: &[u64; PML_ENTRIES], index: u16) -> impl Iterator<Item = Gpa> + '_ {
    let first = if usize::from(index) < PML_ENTRIES { usize::from(index) + 1 } else { 0 };
    // Bits 11:0 are 0.
    log.iter().skip(first).rev().map(|entry| Gpa::new(entry & !0xfff))
}
