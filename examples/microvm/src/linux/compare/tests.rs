//! A comparison finds each way in which tables and statement can differ.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use pgtable::{Access, AccessKind, Gpa, Gva, Prot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Leaf, Tables, compare};
use crate::linux::given::Statement;

const PAGE: u64 = 0x1_0000;
const HUGE: u64 = 0x20_0000;
const LINEAR: u64 = 0xc000_0000_0000_0000;

/// Tables that are a list of leaves.
struct Listed {
    leaves: BTreeMap<u64, Leaf>,
    complete: bool,
    log: Vec<String>,
}

impl Listed {
    fn map(&mut self, va: u64, gpa: u64, shift: u8, prot: Prot) {
        self.leaves.insert(va, Leaf { va: Gva::new(va), gpa: Gpa::new(gpa), shift, prot });
    }

    fn in_small_leaves(&mut self, va: u64, gpa: u64) {
        (0..HUGE)
            .step_by(0x1_0000)
            .for_each(|offset| self.map(va + offset, gpa + offset, 16, Prot::RW.for_user()));
    }

    fn unmap(&mut self, va: u64) {
        self.leaves.remove(&va);
    }
}

impl Tables for Listed {
    fn user(&self, va: Gva) -> Option<Leaf> {
        let (&start, leaf) = self.leaves.range(..=va.get()).next_back()?;
        let offset = va.get() - start;
        (offset >> leaf.shift == 0).then(|| Leaf {
            va,
            gpa: Gpa::new(leaf.gpa.get() + offset),
            ..*leaf
        })
    }

    fn kernel(&self, va: Gva) -> Option<Leaf> {
        self.user(va)
    }

    fn allows(&self, va: Gva, access: Access) -> bool {
        self.user(va).is_some_and(|Leaf { prot, .. }| match access.kind {
            AccessKind::Read => prot.read(),
            AccessKind::Write => prot.write(),
            AccessKind::Fetch => prot.execute(),
        })
    }

    fn complete(&self) -> bool {
        self.complete
    }

    fn each_user_leaf(&self, visit: &mut dyn FnMut(Leaf) -> ControlFlow<()>) -> Result<(), String> {
        let _ = self.leaves.range(..LINEAR).try_for_each(|(_, leaf)| visit(*leaf));
        Ok(())
    }

    fn symbol(&self, _: &Statement, va: u64) -> Option<Gpa> {
        va.checked_sub(LINEAR).map(Gpa::new)
    }

    fn linear(&self) -> Gva {
        Gva::new(LINEAR)
    }

    fn log(&self) -> Vec<String> {
        self.log.clone()
    }
}

/// A guest of 32 MiB, its tables, and what it says of them.
fn guest() -> (Statement, Listed, GuestMemoryMmap) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32 << 20)]).unwrap();
    let mut tables =
        Listed { leaves: BTreeMap::new(), complete: true, log: vec!["two".into(), "three".into()] };
    let mut lines = vec!["@ system powerpc64 page=10000".to_owned()];
    for (start, gpa, permissions, name) in [
        (0x1000_0000, 0x10_0000, "r-xp", "/init"),
        (0x2000_0000, 0x20_0000, "rw-p", ""),
        (0x3000_0000, 0x30_0000, "rw-s", "/tagged"),
        (0x4000_0000, 0x40_0000, "rw-p", "[stack]"),
    ] {
        let prot = if permissions.contains('x') { Prot::RX } else { Prot::RW };
        for page in [0, PAGE] {
            tables.map(start + page, gpa + page, 16, prot.for_user());
        }
        lines.push(format!("@ vma {start:x} {:x} {permissions} {name}", start + 3 * PAGE));
        lines.push(format!("@ pages {start:x} {:x}+2 -1", gpa / PAGE));
    }
    tables.map(0x5000_0000, 0x60_0000, 21, Prot::RW.for_user());
    lines.push(format!("@ vma 50000000 {:x} rw-p ", 0x5000_0000 + HUGE));
    lines.push(format!("@ pages 50000000 60+{:x}", HUGE / PAGE));
    tables.map(LINEAR, 0, 25, Prot::RW);
    memory.write_obj(0x2000_0000_u64, GuestAddress(0x20_0000)).unwrap();
    memory.write_obj(0x2001_0000_u64, GuestAddress(0x21_0000)).unwrap();
    memory.write_slice(b"Linux version 6", GuestAddress(0x8000)).unwrap();
    for line in [
        "@ tagged 20000000 20020000",
        "@ iomem 0 1ffffff System RAM",
        "@ symbol c000000000008000 linux_banner",
        "@ symbol c000000000010000 _etext",
        "@ log Linux version 6",
        "@ log one",
        "@ log two",
        "@ log three",
    ] {
        lines.push(line.into());
    }
    let mut statement = Statement::new(32 << 20);
    for line in &lines {
        statement.take(line).unwrap();
    }
    (statement, tables, memory)
}

#[test]
fn what_agrees() {
    let (statement, tables, memory) = guest();
    let it = compare(&statement, &tables, &memory);
    assert_eq!(it.shown, [""; 0]);
    assert_eq!(it.ok(), "ok pages=40 symbols=2 mapped-lines=0 leaves=9 log=2 mismatches=0");
    assert_eq!(it.sizes, [(16, 8), (21, 1)]);
    assert_eq!(it.ranges.len(), 5, "neighbours are one range");
}

#[test]
fn what_differs_is_found() {
    type Change = fn(&mut Statement, &mut Listed, &GuestMemoryMmap);
    let changes: [(&str, Change, &str); 13] = [
        (
            "another frame",
            |_, it, _| it.map(0x2000_0000, 0x90_0000, 16, Prot::RW.for_user()),
            "page 0x20000000 leads to 0x900000",
        ),
        ("no leaf", |_, it, _| it.unmap(0x2000_0000), "page 0x20000000 leads nowhere"),
        (
            "a leaf too many",
            |_, it, _| it.map(0x2002_0000, 0, 16, Prot::RW),
            "page 0x20020000 leads to 0x0",
        ),
        (
            "a leaf elsewhere",
            |_, it, _| it.map(0x7000_0000, 0, 16, Prot::RW),
            "the tree maps 0x70000000 to 0x0",
        ),
        (
            "other content",
            |_, _, memory| memory.write_obj(7_u64, GuestAddress(0x21_0000)).unwrap(),
            "page 0x20010000 at 0x210000 holds",
        ),
        (
            "text that can be written",
            |_, it, _| it.map(0x1000_0000, 0x10_0000, 16, Prot::RWX.for_user()),
            "page 0x10000000 of r-xp /init",
        ),
        (
            "data that cannot be read",
            |_, it, _| it.map(0x2000_0000, 0x20_0000, 16, Prot::new()),
            "user read is denied",
        ),
        (
            "a symbol elsewhere",
            |it, _, _| it.symbols.push((0xc000_0000_8000_0000, "far".into())),
            "symbol far",
        ),
        (
            "another banner",
            |_, _, memory| memory.write_slice(b"Linux version 7", GuestAddress(0x8000)).unwrap(),
            "linux_banner",
        ),
        (
            "memory without a mapping",
            |it, _, _| it.iomem[0].0.end = 48 << 20,
            "memory at 0x2000000",
        ),
        (
            "a log in another order",
            |_, it, _| it.log.reverse(),
            "the kernel's log does not say \"two\"",
        ),
        (
            "no stack",
            |it, _, _| it.vmas.retain(|vma| vma.name != "[stack]"),
            "no page that is stack",
        ),
        (
            "no huge page",
            |_, it, _| it.in_small_leaves(0x5000_0000, 0x60_0000),
            "the guest has no huge page",
        ),
    ];
    for (name, change, words) in changes {
        let (mut statement, mut tables, memory) = guest();
        change(&mut statement, &mut tables, &memory);
        let it = compare(&statement, &tables, &memory);
        assert!(it.mismatches > 0, "{name}");
        assert!(it.shown.iter().any(|text| text.contains(words)), "{name}: {:?}", it.shown);
    }
}

#[test]
fn a_cache_may_lack_what_is_mapped_and_nothing_else() {
    let (statement, mut tables, memory) = guest();
    tables.complete = false;
    tables.leaves.remove(&0x2000_0000);
    let it = compare(&statement, &tables, &memory);
    assert_eq!((it.mismatches, it.uncached), (0, 1));
    tables.map(0x2000_0000, 0x90_0000, 16, Prot::RW.for_user());
    assert!(compare(&statement, &tables, &memory).mismatches > 0);
}
