//! Entering, translating and removing: the hashed page table and a hash map from page to entry.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Mutex;

use pgtable::{Access, Gva};
use pgtable_ppc64::hash::{Authority, HashMmu, Slb};

use crate::keys::{Random, entry, keys, page, real, slb};
use crate::memory::{Table, table};
use crate::row::{Heat, Load, Operation, Row};
use bench_harness::Contestant;

/// What a contestant can do.
pub trait Map {
    /// Whether it is here for entering and removing only.
    const CHANGES_ONLY: bool = false;
    /// With room for `2^shift` entries, none of them in use.
    fn new(shift: u8) -> Self;
    fn enter(&mut self, keys: &[u64]);
    /// The sum of where the keys lead.
    fn translate(&self, keys: &[u64]) -> u64;
    /// The same in as few calls as it can.
    fn batch(&self, keys: &[u64]) -> u64 {
        self.translate(keys)
    }
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
        keys.iter().fold(0, |sum, &address| {
            sum.wrapping_add(mmu.translate(Gva::new(address), Access::READ).unwrap().real)
        })
    }

    #[inline(never)]
    fn batch(&self, keys: &[u64]) -> u64 {
        let mmu = HashMmu { slb: &self.slb, hpt: &self.hpt, authority: Authority::default() };
        let (mut addresses, mut reals) = ([Gva::new(0); 64], [None; 64]);
        let mut sum = 0_u64;
        for keys in keys.chunks(64) {
            addresses.iter_mut().zip(keys).for_each(|(address, &key)| *address = Gva::new(key));
            assert_eq!(
                mmu.translate_batch(&addresses[..keys.len()], Access::READ, &mut reals),
                keys.len()
            );
            sum =
                reals[..keys.len()].iter().flatten().fold(sum, |sum, &real| sum.wrapping_add(real));
        }
        sum
    }

    #[inline(never)]
    fn remove(&mut self, keys: &[u64]) {
        for &address in keys {
            assert!(self.hpt.remove(&page(address)).unwrap().is_some());
        }
    }
}

/// The hashed page table, of which the holder is the only user: as a hash map behind `&mut`.
pub struct OursAlone(Ours);

impl Map for OursAlone {
    const CHANGES_ONLY: bool = true;

    fn new(shift: u8) -> Self {
        Self(Ours::new(shift))
    }

    #[inline(never)]
    fn enter(&mut self, keys: &[u64]) {
        let mut hpt = self.0.hpt.alone();
        for &address in keys {
            let page = page(address);
            assert!(hpt.insert(&page, entry(&page, address)).unwrap().is_some());
        }
    }

    fn translate(&self, keys: &[u64]) -> u64 {
        self.0.translate(keys)
    }

    #[inline(never)]
    fn remove(&mut self, keys: &[u64]) {
        let mut hpt = self.0.hpt.alone();
        for &address in keys {
            assert!(hpt.remove(&page(address)).unwrap().is_some());
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

/// The same behind a lock that each operation takes, so that several threads may change it, as they
/// may our table.
pub struct LockedHashMap(Mutex<hashbrown::HashMap<Key, u64>>);

/// A key of another type, so that each of the two maps has code of its own, compiled for where it
/// is called: as shared code neither is as fast.
#[derive(PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Map for LockedHashMap {
    const CHANGES_ONLY: bool = true;

    fn new(shift: u8) -> Self {
        Self(Mutex::new(hashbrown::HashMap::with_capacity((1 << shift) / 8 * 7)))
    }

    #[inline(never)]
    fn enter(&mut self, keys: &[u64]) {
        let map = &self.0;
        for &address in keys {
            assert!(map.lock().unwrap().insert(Key(address), real(address) | 0x192).is_none());
        }
    }

    fn translate(&self, keys: &[u64]) -> u64 {
        keys.iter().fold(0, |sum, &address| {
            sum.wrapping_add(self.0.lock().unwrap()[&Key(address)] & !0xfff)
        })
    }

    #[inline(never)]
    fn remove(&mut self, keys: &[u64]) {
        let map = &self.0;
        for &address in keys {
            assert!(map.lock().unwrap().remove(&Key(address)).is_some());
        }
    }
}

/// A map as a contestant: one of each size and load that a row wants.
pub struct Column<M> {
    name: &'static str,
    known: Rc<Known>,
    filled: Vec<Filled<M>>,
}

/// The keys for a table of that size and load.
type KeysOf = ((Heat, Load), Rc<[u64]>);

/// The keys that were needed so far, for all contestants.
#[derive(Default)]
pub struct Known(RefCell<Vec<KeysOf>>);

impl Known {
    fn keys(&self, of: (Heat, Load)) -> Rc<[u64]> {
        let mut known = self.0.borrow_mut();
        if let Some((_, keys)) = known.iter().find(|(known, _)| *known == of) {
            return Rc::clone(keys);
        }
        let keys: Rc<[u64]> = keys(of.0, of.1).into();
        known.push((of, Rc::clone(&keys)));
        keys
    }
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
    pub fn new(name: &'static str, known: &Rc<Known>) -> Self {
        Self { name, known: Rc::clone(known), filled: Vec::new() }
    }

    fn filled(&mut self, of: (Heat, Load)) -> &mut Filled<M> {
        let at = self.filled.iter().position(|filled| filled.of == of).unwrap_or_else(|| {
            let keys = self.known.keys(of);
            let mut other_order = keys.to_vec();
            Random(7).shuffle(&mut other_order);
            let sum = keys.iter().fold(0_u64, |sum, &address| sum.wrapping_add(real(address)));
            self.filled.push(Filled {
                map: M::new(of.0.entries_shift()),
                of,
                keys,
                other_order,
                sum,
                full: false,
            });
            self.filled.len() - 1
        });
        &mut self.filled[at]
    }
}

impl<M: Map> Contestant<Row> for Column<M> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn has(&self, row: Row) -> bool {
        matches!(row, Row::Table(_, _, operation) if !M::CHANGES_ONLY || operation.changes())
    }

    fn prepare(&mut self, row: Row) {
        let Row::Table(heat, load, operation) = row else { return };
        let now = self.filled((heat, load));
        match (operation, now.full) {
            (Operation::Enter, true) => now.map.remove(&now.keys),
            (Operation::Translate | Operation::Batch | Operation::Remove, false) => {
                now.map.enter(&now.keys);
            }
            _ => {}
        }
    }

    fn run(&mut self, row: Row) {
        let Row::Table(heat, load, operation) = row else { return };
        let now = self.filled((heat, load));
        match operation {
            Operation::Enter => now.map.enter(&now.keys),
            Operation::Translate => assert_eq!(now.map.translate(&now.other_order), now.sum),
            Operation::Batch => assert_eq!(now.map.batch(&now.other_order), now.sum),
            Operation::Remove => now.map.remove(&now.other_order),
        }
    }

    fn verify(&mut self, row: Row) {
        let Row::Table(heat, load, operation) = row else { return };
        let now = self.filled((heat, load));
        now.full = operation != Operation::Remove;
        if now.full {
            assert_eq!(now.map.translate(&now.keys), now.sum);
        }
    }
}
