//! The fragment allocator: a table taken and given back.

use std::sync::atomic::AtomicU64;

use bench_harness::arena::Arena;
use frag_alloc::{Cache, Frames, Kind, Local, Owner, Policy, Region};
use pgtable::Hpa;
use pgtable::allocator::Contents;
use pgtable::memory::DirectMap;

use crate::count;

/// Frames of 64 KiB.
const FRAMES: u32 = 64;
const FRAME: u8 = 16;
const START: u64 = 0x4000_0000;
const TURNS: u64 = 1 << 12;
/// Tables alive together.
const ALIVE: usize = 500;

pub fn rows() {
    let arena = Arena::new(START, (FRAMES as usize) << FRAME);
    let words = arena.host.cast::<AtomicU64>();
    // SAFETY: the arena is zeroed, aligned, valid as long as the process, and used through here
    // only.
    let words = unsafe { std::slice::from_raw_parts(words, arena.bytes / 8) };
    let start = Hpa::new(START);
    let region = Region::new(DirectMap::new(words, start), start, FRAMES, FRAME).unwrap();
    let frames = Frames::new(region).unwrap();
    for (policy, whose) in [(Policy::Reuse, "reuse"), (Policy::Linux, "as Linux")] {
        let cache = Cache::new(&frames, Owner(1), Kind::User, policy);
        for (shift, size) in [(8, "256"), (12, "4K")] {
            let local = Local::new(&cache);
            local.give(local.take(shift).unwrap(), shift, Contents::Zeroed).unwrap();
            count(&format!("frag-alloc, {whose}, {size}, pair at a front"), TURNS, || {
                for _ in 0..TURNS {
                    local.give(local.take(shift).unwrap(), shift, Contents::Zeroed).unwrap();
                }
            });
            drop(local);
            cache.give(cache.take(shift).unwrap(), shift, Contents::Zeroed).unwrap();
            count(&format!("frag-alloc, {whose}, {size}, pair at the cache"), TURNS, || {
                for _ in 0..TURNS {
                    cache.give(cache.take(shift).unwrap(), shift, Contents::Zeroed).unwrap();
                }
            });
            let mut alive = vec![start; ALIVE];
            count(&format!("frag-alloc, {whose}, {size}, many alive"), ALIVE as u64, || {
                alive.iter_mut().for_each(|table| *table = cache.take(shift).unwrap());
                for &table in &alive {
                    cache.give(table, shift, Contents::Zeroed).unwrap();
                }
            });
        }
    }
}
