//! Frames held beside frames needed.

use crate::contenders::{Contender, FRAME, Ours, Tables};
use crate::linux::Linux;
use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::Hpa;
use pgtable::memory::DirectMap;
use std::sync::atomic::AtomicU64;

/// xorshift, so that every run sees the same sequence.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

const PEAK: usize = 20_000;
const ROUNDS: usize = 20;

/// Frames held over frames needed in the last rounds: when all are alive, and when a tenth is.
fn rounds<C: Contender>(contender: &C, held: impl Fn() -> usize) -> (f64, f64) {
    let tables = contender.thread();
    let mut random = Random(99);
    let (mut alive, mut peak, mut trough) = (Vec::new(), 0.0_f64, 0.0_f64);
    let needed = |tables: usize| tables.div_ceil(1 << (FRAME - 8)) as f64;
    for round in 0..ROUNDS {
        while alive.len() < PEAK {
            alive.push(tables.take(8));
        }
        let high = held() as f64 / needed(PEAK);
        while alive.len() > PEAK / 10 {
            let table = alive.swap_remove(random.below(alive.len()));
            tables.give(table, 8, true);
        }
        let low = held() as f64 / needed(PEAK / 10);
        if round >= ROUNDS / 2 {
            (peak, trough) = (peak.max(high), trough.max(low));
        }
    }
    for table in alive {
        tables.give(table, 8, true);
    }
    (peak, trough)
}

/// Bytes of the books over those of the frames: of tables from 256 bytes on, and from 4 KiB on.
pub fn books() -> (f64, f64) {
    const FRAMES: u32 = 16;
    let words: Vec<_> = (0..FRAMES << (FRAME - 3)).map(|_| AtomicU64::new(0)).collect();
    let region = || {
        let memory = DirectMap::new(&words, Hpa::new(0));
        Region::new(memory, Hpa::new(0), FRAMES, FRAME).expect("aligned")
    };
    let share = |books: usize| books as f64 / f64::from(FRAMES << FRAME);
    let small = Frames::new(region()).expect("small enough").overhead();
    let large = Frames::new(region().of_tables_from::<12>()).expect("small enough").overhead();
    (share(small), share(large))
}

/// Ours, when all are alive.
pub fn churn() -> f64 {
    let ours = Ours::new(1024);
    let linux = Linux::new(1024);
    let (peak, trough) = rounds(&ours, || ours.frames().census().table_frames as usize);
    let (linux_peak, linux_trough) = rounds(&linux, || linux.pages());
    println!(
        "\nchurn: {PEAK} tables of 256 B alive, a random 90 % freed, {ROUNDS} times; frames held / frames needed"
    );
    println!("{:<24} {:>10} {:>10}", "", "all alive", "a tenth");
    println!("{:<24} {peak:>10.2} {trough:>10.2}", "frag-alloc");
    println!("{:<24} {linux_peak:>10.2} {linux_trough:>10.2}", "Linux's algorithm");
    println!(
        "(a tenth, at random, leaves tables in every frame: who cannot move tables cannot give one back)"
    );
    peak
}

/// A thousand address spaces with few pages each, in radix trees for 64 KiB pages: 256 B, 4 KiB, 4
/// KiB and a root of 64 KiB.
pub fn sparse() {
    const SPACES: u32 = 1000;
    println!("\nbytes of tables per mapped page, {SPACES} sparse address spaces, 64 KiB frames");
    println!("{:<44} {:>10} {:>10}", "", "1 page", "64 pages");
    let mut rows = [
        ("one frame per table", [0; 2]),
        ("frag-alloc, a cache per address space", [0; 2]),
        ("frag-alloc, a cache for all", [0; 2]),
    ];
    for (column, pages) in [1_usize, 64].into_iter().enumerate() {
        rows[0].1[column] = ((3 + pages) << FRAME) / pages;
        for (row, caches) in [(1, SPACES), (2, 1)] {
            let ours = Ours::new(4096);
            let caches: Vec<_> = (0..caches)
                .map(|owner| Cache::new(ours.frames(), Owner(owner), Kind::User, Policy::Reuse))
                .collect();
            for space in 0..SPACES as usize {
                let cache = &caches[space % caches.len()];
                for shift in [16, 12, 12].into_iter().chain(std::iter::repeat_n(8, pages)) {
                    cache.take(shift).expect("enough frames");
                }
            }
            let bytes = (ours.frames().census().table_frames as usize) << FRAME;
            rows[row].1[column] = bytes / (SPACES as usize * pages);
        }
    }
    for (name, [one, many]) in rows {
        println!("{name:<44} {one:>10} {many:>10}");
    }
}
