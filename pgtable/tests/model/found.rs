//! What fuzzing once found, as small as it gets.

use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::PageTable;
use pgtable::{AddressSpace, Error, Gpa, Hpa, Leaves, Prot, RangeError};
use pgtable_ppc64::radix::{Granule, PartitionScoped};

use crate::support::{Arena, Tables};

/// A range whose old mappings cannot all go is remapped nowhere, and the error says so: its address
/// is where the range begins. (It was where unmapping had come to.)
#[test]
fn a_remap_that_cannot_unmap_has_remapped_nothing() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree =
        PageTable::new(PartitionScoped::new(Granule::K4), arena.memory(), &tables).unwrap();
    // Pages of 64 KiB, which a tree of 4 KiB pages may have, and which cannot be split.
    assert_eq!(tree.leaf_shifts()[..2], [12, 16]);
    tree.map(Gpa::new(0x1_0000), Hpa::new(0x1_0000), 0x1_0000, Prot::R.into(), Leaves::Exactly(16))
        .unwrap();
    let mut gather = Gather::new(&Unused, ());
    let (input, output) = (Gpa::new(0), Hpa::new(0x80_0000));
    let refused =
        tree.remap(input, output, 0x1_c000, Prot::RW.into(), Leaves::Largest, &mut gather);
    assert_eq!(refused, Err(RangeError { at: input, error: Error::LeafSize }));
    assert_eq!(tree.walker().query(input), Ok(None));
    let kept = tree.walker().query(Gpa::new(0x1_5000)).unwrap().unwrap();
    assert_eq!((kept.output, kept.shift), (Hpa::new(0x1_5000), 16));
    gather.finish(&&tables).unwrap();
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}
