//! The reverse map against a list of entries.

extern crate std;

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Insert {
        l2: u32,
        page: u64,
        shift: u8,
        at: u64,
    },
    Remove {
        l2: u32,
        page: u64,
        shift: u8,
    },
    Forget {
        l2: u32,
    },
    /// A range of L1's memory.
    Take {
        gpa: u64,
        bytes: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    // Few places, so that many entries share one, and sizes reach over one another.
    let entry = (1u32..4, 0u64..3, prop_oneof![Just(12u8), Just(16), Just(21)]);
    let at = prop_oneof![0u64..4, 510u64..514, Just(1024), 1039u64..1042];
    let range = (
        prop_oneof![0u64..0x40_0000, Just(0), Just(0x20_0000), Just(u64::MAX - 0x1000)],
        0u64..4,
        any::<bool>(),
    );
    prop_oneof![
        8 => (entry.clone(), at).prop_map(|((l2, page, shift), at)| Op::Insert { l2, page, shift, at }),
        2 => entry.prop_map(|(l2, page, shift)| Op::Remove { l2, page, shift }),
        1 => (1u32..4).prop_map(|l2| Op::Forget { l2 }),
        3 => range.prop_map(|(gpa, pages, odd)| Op::Take { gpa, bytes: (pages << 12) + u64::from(odd) }),
        1 => (0u64..0x40_0000, 0u64..0x80_0000).prop_map(|(gpa, bytes)| Op::Take { gpa, bytes }),
    ]
}

/// Partition, address of L2's, size → where in L1's memory.
type Model = BTreeMap<(u32, u64, u8), u64>;

fn in_range(model: &Model, gpa: u64, bytes: u64) -> Vec<(u32, u64, u8)> {
    let Some(last) = bytes.checked_sub(1).map(|more| gpa.saturating_add(more)) else {
        return Vec::new();
    };
    // By pages: who maps any byte of a page is told of.
    let (first, last) = (gpa >> FRAME, last >> FRAME);
    let meets = |&(&(_, _, shift), &at): &(&(u32, u64, u8), &u64)| {
        at >> FRAME <= last && first < (at >> FRAME) + (1 << (shift - FRAME))
    };
    model.iter().filter(meets).map(|(&entry, _)| entry).collect()
}

fn sorted(mut links: Vec<Link>) -> Vec<(u32, u64, u8)> {
    links.sort_by_key(|it| (it.l2(), it.n_gpa().get(), it.shift()));
    links.iter().map(|it| (it.l2(), it.n_gpa().get(), it.shift())).collect()
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(256))]
    #[test]
    fn as_a_list(ops in proptest::collection::vec(op(), 1..80)) {
        let (mut map, mut model) = (ReverseMap::default(), Model::new());
        for op in ops {
            match op {
                Op::Insert { l2, page, shift, at } => {
                    let (n_gpa, gpa) = (page << shift, at << FRAME >> shift << shift);
                    map.insert(l2, Gpa::new(n_gpa), shift, Gpa::new(gpa)).unwrap();
                    model.insert((l2, n_gpa, shift), gpa);
                }
                Op::Remove { l2, page, shift } => {
                    map.remove(l2, Gpa::new(page << shift), shift);
                    model.remove(&(l2, page << shift, shift));
                }
                Op::Forget { l2 } => {
                    map.forget(l2);
                    model.retain(|entry, _| entry.0 != l2);
                }
                Op::Take { gpa, bytes } => {
                    let (mut seen, mut gone) = (Vec::new(), Vec::new());
                    map.for_each(Gpa::new(gpa), bytes, |link| seen.push(link));
                    map.take(Gpa::new(gpa), bytes, |link| gone.push(link));
                    let expected = in_range(&model, gpa, bytes);
                    assert_eq!(sorted(seen), expected);
                    assert_eq!(sorted(gone), expected);
                    model.retain(|entry, _| !expected.contains(entry));
                }
            }
            assert_eq!(map.len(), model.len());
            for (&(l2, n_gpa, shift), &gpa) in &model {
                assert_eq!(map.target(l2, Gpa::new(n_gpa), shift), Some(Gpa::new(gpa)));
            }
            assert_eq!(map.target(1, Gpa::new(9 << 30), 12), None);
            let mut all = Vec::new();
            map.for_each(Gpa::new(0), u64::MAX, |link| all.push(link));
            assert_eq!(all.len(), model.len());
            // Nothing is kept of what is gone.
            let places: std::collections::BTreeSet<_> = model.values().collect();
            assert_eq!(map.entries.len(), places.len());
        }
    }
}
