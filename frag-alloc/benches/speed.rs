//! Nanoseconds per table: taken and given back, alone, by two threads, and across threads.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::contenders::{All, Contender, FIRST_PEER, Tables, each, sum, word};

/// Short rounds, many of them: on a machine that does other things too, some are left alone.
const ROUNDS: usize = 40;
/// Tables alive together in the rows that keep some.
const BATCH: usize = 1000;

fn best(rounds: usize, mut round: impl FnMut() -> Vec<f64>) -> Vec<f64> {
    let mut best = round();
    for _ in 1..rounds {
        for (best, now) in best.iter_mut().zip(round()) {
            *best = best.min(now);
        }
    }
    best
}

fn name(contender: &impl Contender) -> &'static str {
    contender.name()
}

fn print(title: &str, row: &[f64]) {
    print!("{title:<34}");
    row.iter().for_each(|ns| print!(" {ns:>8.1}"));
    println!();
}

/// Sets a word and clears it: a table that was in use and is empty again.
#[inline(always)]
fn touch(table: usize, shift: u8) {
    word(table + 8).store(black_box(1), Ordering::Relaxed);
    word(table + (1 << shift) - 8).store(0, Ordering::Relaxed);
    word(table + 8).store(0, Ordering::Relaxed);
}

#[inline(never)]
fn pair<C: Contender>(contender: &C, shift: u8, clean: bool) -> f64 {
    let tables = contender.thread();
    let first = tables.take(shift);
    assert_eq!(
        (sum(first, shift), first % (1 << shift)),
        (0, 0),
        "{}: not zeroed or not aligned",
        contender.name()
    );
    tables.give(first, shift, true);
    run_pairs(&tables, shift, clean, 20_000)
}

#[inline(never)]
fn run_pairs(tables: &impl Tables, shift: u8, clean: bool, count: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        let table = black_box(tables.take(shift));
        touch(table, shift);
        tables.give(table, shift, clean);
    }
    start.elapsed().as_nanos() as f64 / f64::from(count)
}

#[inline(never)]
fn many<C: Contender>(contender: &C, shift: u8, order: &[usize]) -> f64 {
    let tables = contender.thread();
    let mut taken = vec![0; BATCH];
    let start = Instant::now();
    for _ in 0..3 {
        for table in &mut taken {
            *table = tables.take(shift);
            touch(*table, shift);
        }
        for &index in order {
            tables.give(taken[index], shift, true);
        }
    }
    start.elapsed().as_nanos() as f64 / (3 * BATCH) as f64
}

/// Our best single-thread pair of 256 bytes, over the best general allocator's.
pub fn pairs() -> f64 {
    let all = All::new();
    println!("ns per table taken and given back; best of {ROUNDS} rounds, all in turn\n");
    print!("{:<34}", "");
    each!(all, name)
        .iter()
        .for_each(|name| print!(" {:>8.8}", name.trim_start_matches("frag-alloc, ")));
    println!("\n{:<34} (front, shared: frag-alloc)", "");
    let mut order: Vec<usize> = (0..BATCH).collect();
    let mut random = crate::memory::Random(7);
    (1..BATCH).for_each(|index| order.swap(index, random.below(index + 1)));
    let row = best(ROUNDS, || each!(all, pair, 8, true));
    print("256 B, pair, given back empty", &row);
    print("256 B, pair, given back dirty", &best(ROUNDS, || each!(all, pair, 8, false)));
    print("256 B, 1000 alive, random order", &best(ROUNDS, || each!(all, many, 8, &order)));
    print("4 KiB, pair, given back empty", &best(ROUNDS, || each!(all, pair, 12, true)));
    print("4 KiB, pair, given back dirty", &best(ROUNDS, || each!(all, pair, 12, false)));
    print("4 KiB, 1000 alive, random order", &best(ROUNDS, || each!(all, many, 12, &order)));
    row[0] / peer(&row)
}

fn peer(row: &[f64]) -> f64 {
    row[FIRST_PEER..].iter().copied().fold(f64::INFINITY, f64::min)
}

/// Pairs by `threads` threads at once: ns per pair of all together, from the first start to the
/// last end.
fn together<C: Contender>(contender: &C, threads: usize) -> f64 {
    const COUNT: u32 = 100_000;
    let barrier = Barrier::new(threads);
    let run = || {
        let tables = contender.thread();
        run_pairs(&tables, 8, true, 100);
        barrier.wait();
        let start = Instant::now();
        run_pairs(&tables, 8, true, COUNT);
        (start, Instant::now())
    };
    let times: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let (start, end) = (times.iter().map(|it| it.0).min(), times.iter().map(|it| it.1).max());
    let elapsed =
        end.zip(start).map_or(f64::INFINITY, |(end, start)| (end - start).as_nanos() as f64);
    elapsed / (f64::from(COUNT) * threads as f64)
}

/// How many times as many pairs our fronts do with two threads as with one.
pub fn two_threads() -> f64 {
    let all = All::new();
    let both = best(ROUNDS, || {
        let mut row = each!(all, together, 1);
        row.append(&mut each!(all, together, 2));
        row
    });
    let (one, two) = both.split_at(both.len() / 2);
    println!();
    print("256 B, pair, one thread", one);
    print("256 B, pair, two threads, per pair", two);
    one[0] / two[0]
}

/// One thread takes, another gives back: ns per table.
#[inline(never)]
fn handed_over<C: Contender>(contender: &C) -> f64 {
    const COUNT: usize = 30_000;
    const RING: usize = 4096;
    let ring: Vec<AtomicUsize> = (0..RING).map(|_| AtomicUsize::new(0)).collect();
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let giver = scope.spawn(|| {
            let tables = contender.thread();
            barrier.wait();
            for index in 0..COUNT {
                let slot = &ring[index % RING];
                let mut table = slot.load(Ordering::Acquire);
                while table == 0 {
                    std::hint::spin_loop();
                    table = slot.load(Ordering::Acquire);
                }
                slot.store(0, Ordering::Release);
                tables.give(table, 8, true);
            }
        });
        let tables = contender.thread();
        barrier.wait();
        let start = Instant::now();
        for index in 0..COUNT {
            let table = tables.take(8);
            touch(table, 8);
            let slot = &ring[index % RING];
            while slot.load(Ordering::Acquire) != 0 {
                std::hint::spin_loop();
            }
            slot.store(table, Ordering::Release);
        }
        giver.join().expect("no panic");
        start.elapsed().as_nanos() as f64 / COUNT as f64
    })
}

/// Ours over the best general allocator's.
pub fn cross_thread() -> f64 {
    let all = All::new();
    let row = best(ROUNDS, || each!(all, handed_over));
    print("256 B, given back by another", &row);
    row[0] / peer(&row)
}
