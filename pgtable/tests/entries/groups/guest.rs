//! Groups that a guest wrote half.

use pgtable::format::{Entry, Format};
use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::{Recorded, Writers};
use pgtable::walk::LeafOf;
use pgtable::{Attributes, Gva, Leaves, Memory, Prot};
use pgtable_conformance::lpa::Lpa;

use super::{AF, CONTIGUOUS, K64, M2, leaves, map, output, tree, words, write};
use crate::support::{Arena, Tables};

/// A guest writes groups that are incomplete. Each entry counts for itself; every verb ends, and
/// what is mapped elsewhere stays.
#[test]
fn incomplete_groups() {
    type Odd = fn(u64) -> u64;
    let odd: [(&str, Odd); 6] = [
        ("absent", |_| 0),
        ("no group", |word| word & !CONTIGUOUS),
        ("elsewhere", |word| word + (1 << 40)),
        ("swapped", |word| word ^ 1 << 16),
        ("other memory", |word| word ^ 2 << 2),
        ("used", |word| word & !AF),
    ];
    for (name, odd) in odd {
        let arena = Arena::new(4 << 20);
        let tables = Tables::new(&arena);
        let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
        map(&mut tree, 0, 4 * M2, 2 * M2, Leaves::Largest);
        let at = 5 * K64;
        let word = odd(words(&arena, &tree, at, 1)[0]);
        write(&arena, &tree, at, word);
        // The entry that is indexed counts.
        let position = pgtable::Position { level: pgtable::Level(0), shift: 16 };
        let want = match tree.format().decode(word, position) {
            Entry::Leaf { output, .. } => Some(output.get()),
            _ => None,
        };
        let found = tree.walker().query(Gva::new(at)).unwrap();
        assert_eq!(found.map(|found| found.output.get()), want, "{name}");
        assert_eq!(output(&tree, 6 * K64).0, 4 * M2 + 6 * K64, "{name}");
        let expected = match name {
            "used" => 2,
            "absent" => 31 + 1,
            _ => 32 + 1,
        };
        assert_eq!(leaves(&tree, 0, 2 * M2).len(), expected, "{name}");
        let mut gather = Gather::new(&Unused, ());
        let device = |leaf: LeafOf<Lpa>| leaf.attributes.with_memory(Memory::Device);
        let mapped = if name == "absent" { 2 * M2 - K64 } else { 2 * M2 };
        assert_eq!(tree.protect(Gva::new(0), 2 * M2, Prot::R, &mut gather), Ok(mapped), "{name}");
        assert_eq!(tree.modify(Gva::new(0), 2 * M2, device, &mut gather), Ok(mapped), "{name}");
        let mut bitmap = [0];
        let harvested = (Recorded::Accessed, Writers::Running);
        tree.harvest(Gva::new(0), 2 * M2, harvested.0, harvested.1, &mut bitmap, &mut gather)
            .unwrap();
        tree.promote(Gva::new(0), 2 * M2, &mut gather).unwrap();
        tree.split(Gva::new(0), 2 * M2, 16, &mut gather).unwrap();
        let found = tree.walker().query(Gva::new(at)).unwrap();
        assert_eq!(found.map(|found| found.output.get()), want, "{name}");
        assert_eq!(tree.unmap(Gva::new(0), 4 * K64, &mut gather), Ok(4 * K64), "{name}");
        assert_eq!(tree.unmap(Gva::new(0), 2 * M2, &mut gather), Ok(mapped - 4 * K64), "{name}");
        gather.finish(&&tables).unwrap();
        assert_eq!(leaves(&tree, 0, 1 << 40), [], "{name}");
    }
}
