//! Two vCPU threads that fault pages into one second stage, without a lock around the tree: each
//! verb locks the smallest subtree that covers its range, and readers take no lock.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::shared::SharedPageTable;
use pgtable::tree::PageTable;
use pgtable::{Access, Error, Gpa, Hpa, Leaves, Prot, RangeError};
use pgtable_x86::{Ept, EptControls, Levels};

const PAGE: u64 = 4096;
const PAGES: u64 = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<_> = (0..1 << 17).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(0));
    let frames = Frames::new(Region::new(memory, Hpa::new(0), 16, 16)?)?;
    // A freed table waits until no thread can still be reading it.
    let epochs = Epochs::new(2);
    let tables = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let tables = Deferred::new(tables, &epochs);
    let format = Ept::new(Levels::Four, EptControls::new());
    let tree = SharedPageTable::from(PageTable::new(format, memory, &tables)?);
    let faults = [const { AtomicU64::new(0) }; 2];
    let start = Barrier::new(2);

    thread::scope(|scope| {
        for (vcpu, faults) in faults.iter().enumerate() {
            let (tree, start) = (&tree, &start);
            scope.spawn(move || {
                let writer = tree.writer().expect("two readers");
                start.wait();
                for turn in 0..PAGES {
                    // Both walk over the same memory, in opposite directions.
                    let page = if vcpu == 0 { turn } else { PAGES - 1 - turn };
                    let gpa = Gpa::new(page * PAGE);
                    // The processor exits with an EPT violation …
                    if writer.translate(gpa, Access::WRITE).is_ok() {
                        continue;
                    }
                    // … and the VMM maps the page, unless the other vCPU was there first.
                    let hpa = Hpa::new((1 << 30) + page * PAGE);
                    let leaf = Leaves::Exactly(12);
                    match writer.map(gpa, hpa, PAGE, Prot::RWX.into(), leaf) {
                        Ok(()) => {
                            faults.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(RangeError { error: Error::Mapped { .. }, .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let [first, second] = faults.map(AtomicU64::into_inner);
    println!("vCPU 0 mapped {first} pages, vCPU 1 {second}");
    assert_eq!(first + second, PAGES);
    tree.into_inner().destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error)?;
    Ok(())
}
