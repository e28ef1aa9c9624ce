//! Pages of 64 KiB in a guest stage: 16 equal entries, which are fenced one by one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Access, Gpa, Hpa, Leaves, Prot, Stage2};
use pgtable_riscv64::{CEILING, Extensions, GuestControls, Mode, SvX4, hfence_gvma};

const PAGE: u64 = 4096;
const WRITE: Access = Access::WRITE.by_user();

/// The addresses of the fences that were executed.
#[derive(Default)]
struct Fences(RefCell<Vec<Option<u64>>>);

impl Invalidate<Stage2> for Fences {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        let fences = hfence_gvma(stale, None, false, CEILING);
        self.0.borrow_mut().extend(fences.map(|fence| fence.rs1));
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
}

/// A NAPOT page is 16 equal entries; a change of a part makes it 16 pages, and each 4 KiB of it is
/// fenced.
#[test]
fn pages_of_64_kib() {
    let words: Vec<_> = (0..1 << 16).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(0));
    let frames = Frames::new(Region::new(memory, Hpa::new(0), 8, 16).unwrap()).unwrap();
    let tables = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let extensions = Extensions { svnapot: true, ..Extensions::new() };
    let format = SvX4::new(Mode::Sv39, GuestControls { extensions, ..GuestControls::new() });
    let mut guest = PageTable::new(format, memory, &tables).unwrap();
    let (gpa, hpa) = (Gpa::new(0x8001_0000), Hpa::new(0x9002_0000));
    guest.map(gpa, hpa, 0x1_0000, Prot::RW.into(), Leaves::Largest).unwrap();
    let entries = guest.walker().trace(Gpa::new(gpa.get() + 0x5000));
    let last = entries.last().unwrap();
    assert_eq!(last.word, 1 << 63 | 0x9_0028 << 10 | 0xd7);
    let first = (last.address.get() / 8 - 5) as usize;
    let held: Vec<_> = words[first..first + 16].iter().map(|word| word.load(Relaxed)).collect();
    assert_eq!(held, [last.word; 16]);
    let found = guest.translate(Gpa::new(gpa.get() + 0xa123), WRITE).unwrap();
    assert_eq!((found.output, found.shift), (Hpa::new(hpa.get() + 0xa123), 16));

    let fences = Fences::default();
    let mut gather = Gather::new(&fences, ());
    guest.unmap(Gpa::new(gpa.get() + 0x3000), PAGE, &mut gather).unwrap();
    gather.finish(guest.tables()).unwrap();
    let mut fenced = fences.0.take();
    fenced.sort_unstable();
    fenced.dedup();
    let pages = (0..16).map(|n| Some((gpa.get() + n * PAGE) >> 2));
    assert_eq!(fenced, pages.collect::<Vec<_>>());
    for n in 0..16 {
        let page = Gpa::new(gpa.get() + n * PAGE);
        match guest.translate(page, WRITE) {
            Ok(found) => {
                assert_eq!((found.output.get(), found.shift), (hpa.get() + n * PAGE, 12));
            }
            Err(fault) => assert_eq!((n, fault.arch.code()), (3, 23)),
        }
    }
    // Without Svnapot the same range is 16 pages.
    let none = SvX4::new(Mode::Sv39, GuestControls::new());
    let mut plain = PageTable::new(none, memory, &tables).unwrap();
    plain.map(gpa, hpa, 0x1_0000, Prot::RW.into(), Leaves::Largest).unwrap();
    assert_eq!(plain.translate(gpa, WRITE).unwrap().shift, 12);
}
