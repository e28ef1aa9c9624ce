//! Entering, translating and removing: the hashed page table and a hash map from page to entry.

use std::rc::Rc;

use arch_ppc64::hash::{Authority, HashMmu, Slb};
use pgtable::{Access, Gva};

use crate::harness::Contestant;
use crate::keys::{Random, entry, keys, page, real, slb};
use crate::memory::{Table, table};
use crate::row::{Heat, Load, Operation, Row};

/// What a contestant can do.
pub trait Map {
    /// With room for `2^shift` entries, none of them in use.
    fn new(shift: u8) -> Self;
    fn enter(&mut self, keys: &[u64]);
    /// The sum of where the keys lead.
    fn translate(&self, keys: &[u64]) -> u64;
    fn remove(&mut self, keys: &[u64]);
}

/// The hashed page table.
pub struct Ours {
    hpt: Table,
    slb: Slb,
}

impl Map for Ours {
    fn new(shift: u8) -> Self {
        Self { hpt: table(shift + 4), slb: slb() }
    }

    #[inline(never)]
    fn enter(&mut self, keys: &[u64]) {
        for &address in keys {
            let page = page(address);
            assert!(self.hpt.insert(&page, entry(&page, address)).unwrap().is_some());
        }
    }

    #[inline(never)]
    fn translate(&self, keys: &[u64]) -> u64 {
        let mmu = HashMmu { slb: &self.slb, hpt: &self.hpt, authority: Authority::default() };
        keys.iter()
            .fold(0, |sum, &address| sum.wrapping_add(mmu.translate(Gva::new(address), Access::READ).unwrap().real))
    }

    #[inline(never)]
    fn remove(&mut self, keys: &[u64]) {
        for &address in keys {
            assert!(self.hpt.remove(&page(address)).unwrap().is_some());
        }
    }
}

/// `hashbrown`, with its default hasher.
pub struct HashMap(hashbrown::HashMap<u64, u64>);

impl Map for HashMap {
    fn new(shift: u8) -> Self {
        // So many fit without growing, which makes 2^shift places.
        Self(hashbrown::HashMap::with_capacity((1 << shift) / 8 * 7))
    }

    #[inline(never)]
    fn enter(&mut self, keys: &[u64]) {
        for &address in keys {
            assert!(self.0.insert(address, real(address) | 0x192).is_none());
        }
    }

    #[inline(never)]
    fn translate(&self, keys: &[u64]) -> u64 {
        keys.iter().fold(0, |sum, address| sum.wrapping_add(self.0[address] & !0xfff))
    }

    #[inline(never)]
    fn remove(&mut self, keys: &[u64]) {
        for address in keys {
            assert!(self.0.remove(address).is_some());
        }
    }
}

/// A map as a contestant: one at a time, of the size and load that a row wants.
pub struct Column<M> {
    name: &'static str,
    now: Option<Filled<M>>,
    known: Vec<((Heat, Load), Rc<[u64]>)>,
}

struct Filled<M> {
    map: M,
    of: (Heat, Load),
    keys: Rc<[u64]>,
    other_order: Vec<u64>,
    sum: u64,
    full: bool,
}

impl<M: Map> Column<M> {
    pub fn new(name: &'static str) -> Self {
        Self { name, now: None, known: Vec::new() }
    }

    fn keys(&mut self, of: (Heat, Load)) -> Rc<[u64]> {
        if let Some((_, keys)) = self.known.iter().find(|(known, _)| *known == of) {
            return Rc::clone(keys);
        }
        let keys: Rc<[u64]> = keys(of.0, of.1).into();
        self.known.push((of, Rc::clone(&keys)));
        keys
    }
}

impl<M: Map> Contestant<Row> for Column<M> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn has(&self, row: Row) -> bool {
        matches!(row, Row::Table(..))
    }

    fn prepare(&mut self, row: Row) {
        let Row::Table(heat, load, operation) = row else { return };
        let of = (heat, load);
        if self.now.as_ref().is_none_or(|now| now.of != of) {
            self.now = None;
            let keys = self.keys(of);
            let mut other_order = keys.to_vec();
            Random(7).shuffle(&mut other_order);
            let sum = keys.iter().fold(0_u64, |sum, &address| sum.wrapping_add(real(address)));
            let map = M::new(heat.entries_shift());
            self.now = Some(Filled { map, of, keys, other_order, sum, full: false });
        }
        let Some(now) = &mut self.now else { return };
        match (operation, now.full) {
            (Operation::Enter, true) => now.map.remove(&now.keys),
            (Operation::Translate | Operation::Remove, false) => now.map.enter(&now.keys),
            _ => {}
        }
        now.full = operation != Operation::Enter;
    }

    fn run(&mut self, row: Row) {
        let (Row::Table(_, _, operation), Some(now)) = (row, &mut self.now) else { return };
        match operation {
            Operation::Enter => now.map.enter(&now.keys),
            Operation::Translate => assert_eq!(now.map.translate(&now.other_order), now.sum),
            Operation::Remove => now.map.remove(&now.other_order),
        }
    }

    fn verify(&mut self, row: Row) {
        let (Row::Table(_, _, operation), Some(now)) = (row, &mut self.now) else { return };
        now.full = operation != Operation::Remove;
        if now.full {
            assert_eq!(now.map.translate(&now.keys), now.sum);
        }
    }
}
