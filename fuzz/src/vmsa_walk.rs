//! AArch64 tables in arbitrary memory: stage 1, stage 2, and one behind the other.

use std::sync::atomic::AtomicU64;

use arbitrary::{Arbitrary, Unstructured};
use pgtable::cache::{Generation, TranslationCache};
use pgtable::memory::DirectMap;
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::walk::Walker;
use pgtable::{Gpa, Gva, Hpa};
use pgtable_aarch64::{
    Granule, Regime, Stage1Controls, Stage2Controls, VaRange, VmsaStage1, VmsaStage2,
};

use crate::case::{access, bit, image, neighbours, words};
use crate::memory::Counted;
use crate::oracle::vmsa::model::{self, Params};
use crate::oracle::vmsa::{params1, params2};
use crate::reading::Tree;

/// 128 KiB: two granules of 64 KiB.
const WORDS: usize = 1 << 14;

#[derive(Arbitrary)]
struct Header {
    /// What is walked (two bits), and an address that need not be inside (the next one).
    what: u8,
    access: u8,
    first: Shape,
    second: Shape,
    roots: [u8; 2],
    va: u64,
    bytes: u32,
}

/// A stage's controls.
#[derive(Arbitrary)]
struct Shape {
    /// The granule, the output size, the start level.
    sizes: u8,
    start: u8,
    input_bits: u8,
    flags: u16,
}

const GRANULES: [Granule; 3] = [Granule::K4, Granule::K16, Granule::K64];
const OUTPUTS: [u8; 7] = [32, 36, 40, 42, 44, 48, 52];

impl Shape {
    fn granule(&self) -> Granule {
        GRANULES[usize::from(self.sizes & 15) % 3]
    }

    fn output_bits(&self) -> u8 {
        OUTPUTS[usize::from(self.sizes >> 4) % 7]
    }

    fn physical_bits(&self) -> u8 {
        if bit(self.flags, 0) { 52 } else { 48 }
    }

    fn stage1(&self) -> Stage1Controls {
        let flag = |n| bit(self.flags, n);
        Stage1Controls {
            regime: [Regime::El10, Regime::El2, Regime::El20][usize::from(self.start) % 3],
            range: if flag(1) { VaRange::Upper } else { VaRange::Lower },
            granule: self.granule(),
            input_bits: 17 + self.input_bits % 36,
            output_bits: self.output_bits(),
            physical_bits: self.physical_bits(),
            lva: flag(2),
            ds: flag(3),
            small_tables: true,
            contiguous: flag(4),
            ha: flag(5),
            hd: flag(6),
            hpd: flag(7),
            tbi: flag(8),
            wxn: flag(9),
            pan: flag(10),
            epan: flag(11),
        }
    }

    fn stage2(&self) -> Stage2Controls {
        let flag = |n| bit(self.flags, n);
        let controls = Stage2Controls {
            granule: self.granule(),
            input_bits: 17 + self.input_bits % 36,
            start_level: (self.start % 5) as i8 - 1,
            output_bits: self.output_bits(),
            physical_bits: self.physical_bits(),
            ds: flag(3),
            small_tables: true,
            contiguous: flag(4),
            ha: flag(5),
            hd: flag(6),
            xnx: flag(7),
            fwb: flag(8),
        };
        // Most start levels do not go with the size.
        if flag(9) {
            return controls;
        }
        controls.with_input(controls.granule, controls.input_bits)
    }
}

/// Arbitrary memory as tables; one address and its neighbours.
///
/// # Oracles
/// The model of `pgtable-aarch64`'s tests, which goes by the manual step by step: addresses, sizes,
/// and the syndrome's status, of each stage and of both; all ways to read agree, and none reads
/// more than it may. The latter are compared without the contiguous hint: in arbitrary memory most
/// sets are misprogrammed, and a range may then be read otherwise than its pages one by one.
pub fn vmsa_walk(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(header) = input.arbitrary::<Header>() else { return };
    let Header { what, access: choice, first, second, roots, va, bytes } = header;
    let given = words(input);
    let access = access(choice);
    let image = image(&given, WORDS);
    let memory: Vec<_> = image.iter().map(|&word| AtomicU64::new(word)).collect();
    let load = |address: u64| image.get((address / 8) as usize).copied();

    let (c1, c2) = (first.stage1(), second.stage2());
    let (Ok(first), Ok(second)) = (VmsaStage1::new(c1), VmsaStage2::new(c2)) else { return };
    let (p1, p2) = (params1(&c1), params2(&c2));
    let root = |n: usize, granule: Granule| (u64::from(roots[n]) << granule.shift()) % 0x2_0000;
    let (root1, root2) = (root(0, c1.granule), root(1, c2.granule));
    // Mostly addresses of the space.
    let inputs = |p: &Params| {
        let mask = if what & 4 != 0 { u64::MAX } else { u64::MAX >> (64 - p.input_bits) };
        let outside = if p.upper { !mask } else { 0 };
        neighbours(va & mask | outside, &given)
    };
    match what & 3 {
        0 => {
            let inputs = inputs(&p1);
            let memory = DirectMap::new(&memory, Gpa::new(0));
            let walker = Walker::new(first, memory, Gpa::new(root1));
            for &va in &inputs {
                let want = model::walk(&p1, root1, va, access, load);
                let seen = walker.translate(Gva::new(va), access);
                let seen = seen.map(|it| (it.output.get(), it.shift.into()));
                assert_eq!(seen.map_err(|fault| fault.arch.status()), want, "{access} at {va:#x}");
            }
            let format = VmsaStage1::new(Stage1Controls { contiguous: false, ..c1 });
            let format = format.expect("of the same shape");
            let tree = Tree { format, memory, root: Gpa::new(root1) };
            tree.check(&inputs, access, bytes.into());
        }
        1 => {
            let inputs = inputs(&p2);
            let memory = DirectMap::new(&memory, Hpa::new(0));
            let walker = Walker::new(second, memory, Hpa::new(root2));
            for &ipa in &inputs {
                let want = model::walk(&p2, root2, ipa, access, load);
                let seen = walker.translate(Gpa::new(ipa), access);
                let seen = seen.map(|it| (it.output.get(), it.shift.into()));
                assert_eq!(seen.map_err(|fault| fault.arch.status()), want, "{access} at {ipa:#x}");
            }
            let format = VmsaStage2::new(Stage2Controls { contiguous: false, ..c2 });
            let format = format.expect("of the same shape");
            let tree = Tree { format, memory, root: Hpa::new(root2) };
            tree.check(&inputs, access, bytes.into());
        }
        _ => {
            let memory = Counted::of(DirectMap::new(&memory, Hpa::new(0)));
            let walker = || Walker::new(second, &memory, Hpa::new(root2));
            let generation = Generation::new();
            let cache = TranslationCache::<VmsaStage2, 8>::new(&generation);
            let both = TwoStage::new(first, Gpa::new(root1), walker());
            let cached = TwoStage::new(first, Gpa::new(root1), walker()).with_cache(&cache);
            let levels = |start: i32| (4 - start) as usize;
            let (l1, l2) = (levels(p1.start), levels(p2.start));
            for va in inputs(&p1) {
                let want = model::both((&p1, root1), (&p2, root2), va, access, load);
                memory.loads();
                let seen = both.translate(Gva::new(va), access);
                assert!(memory.loads() <= l1 * (2 * l2 + 1) + 2 * l2 + 2 * l1 * l2, "{va:#x}");
                for _ in 0..2 {
                    assert_eq!(cached.translate(Gva::new(va), access), seen, "{va:#x}, cached");
                }
                let seen = seen.map(|it| (it.output().get(), it.shift().into()));
                let seen = seen.map_err(|fault| match fault {
                    TwoStageFault::Stage1(fault) => (false, false, fault.arch.status()),
                    TwoStageFault::Stage2 { table, fault, .. } => {
                        assert_eq!(fault.arch.s1ptw(), table.is_some());
                        (true, table.is_some(), fault.arch.status())
                    }
                });
                assert_eq!(seen, want, "{access} at {va:#x}");
            }
        }
    }
}
