//! Live migration: copy memory, then what was written meanwhile, until little is left. The dirty
//! pages come out of EPT's dirty flags; nothing is write-protected.

use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Hpa, Leaves, Prot};
use pgtable_x86::{Ept, EptControls, Levels};

const PAGE: u64 = 4096;
const PAGES: u64 = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<_> = (0..1 << 16).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(0));
    let frames = Frames::new(Region::new(memory, Hpa::new(0), 8, 16)?)?;
    let tables = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let ept = Ept::new(Levels::Four, EptControls { accessed_dirty: true, ..EptControls::new() });
    let mut tree = PageTable::new(ept, memory, &tables)?;
    // Small leaves, so that each page is recorded by itself.
    let (start, bytes) = (Gpa::new(0), PAGES * PAGE);
    tree.map(start, Hpa::new(1 << 30), bytes, Prot::RWX.into(), Leaves::Exactly(12))?;

    // What the vCPU does meanwhile, as its MMU does it.
    let vcpu = Walker::new(ept, memory, tree.root());
    let mut log = [0; PAGES as usize / 64];
    let mut rounds = Vec::new();
    for writes in [PAGES, 100, 5, 0] {
        for page in 0..writes {
            vcpu.access(Gpa::new(page * 7 % PAGES * PAGE + 8), Access::WRITE)?;
        }
        // In this order: harvest, invalidate, then read the pages. (`Unused` stands for INVEPT:
        // here no hardware caches anything.)
        log.fill(0);
        let mut gather = Gather::new(&Unused, ());
        tree.harvest(start, bytes, Recorded::Dirty, Writers::Running, &mut log, &mut gather)?;
        gather.finish(&tables)?;
        let dirty: u32 = log.iter().map(|word: &u64| word.count_ones()).sum();
        println!("round {}: {dirty} pages to send", rounds.len());
        rounds.push(dirty);
    }
    assert_eq!(rounds, [512, 100, 5, 0]);
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error)?;
    Ok(())
}
