//! `cargo xtask bench lines`: the cache lines that an operation touches, and those that move
//! between CPUs when many of them work side by side.
//!
//! This program does its work under `valgrind`'s lackey, which prints every access to memory. What
//! belongs to which operation is told by stores to [`MARKS`]. Nothing is measured here: `xtask`
//! reads the accesses. CPUs are simulated: one thread does an operation for each CPU in turn, and
//! each CPU has what a thread of an embedder would have of its own (a writer, a front).

mod alone;
mod together;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The most CPUs.
pub const CPUS: usize = 64;
/// Marks: an operation ends; from now on it counts; the operation of CPU n begins.
const END: usize = 0;
const COUNTS: usize = 1;
const FIRST: usize = 2;

/// One word of each kind of mark.
static MARKS: [AtomicU64; FIRST + CPUS] = [const { AtomicU64::new(0) }; FIRST + CPUS];

/// The CPU whose turn it is.
static CPU: AtomicUsize = AtomicUsize::new(0);

/// The CPU whose turn it is.
pub fn cpu() -> usize {
    CPU.load(Ordering::Relaxed)
}

/// It is the turn of `cpu`. Not within an operation: no CPU of the model does this.
pub fn is_on(cpu: usize) {
    CPU.store(cpu, Ordering::Relaxed);
}

#[inline(never)]
fn mark(index: usize) {
    MARKS[index].store(1, Ordering::SeqCst);
}

/// Does `work` twice, and marks the second time: what is done once for all is not counted.
pub fn row(name: &str, mut work: impl FnMut(u64)) {
    println!("row {name}");
    work(0);
    mark(COUNTS);
    mark(FIRST);
    work(1);
    mark(END);
}

/// Each of `cpus` CPUs does `work` in turn, again and again; the first turns do not count.
pub fn model(name: &str, cpus: usize, turns: u64, mut work: impl FnMut(usize, u64)) {
    println!("model {name} | {cpus}");
    for turn in 0..turns {
        if turn == turns / 2 {
            mark(COUNTS);
        }
        for cpu in 0..cpus {
            is_on(cpu);
            mark(FIRST + cpu);
            work(cpu, turn);
            mark(END);
        }
    }
}

/// Tells where something stands.
pub fn range<T>(name: &str, words: *const T, bytes: usize) {
    println!("range {name} {:#x} {:#x}", words as usize, words as usize + bytes);
}

fn main() {
    // All frames of this program are around this one, within this much.
    let here = 0u64;
    range("stack", (&raw const here).cast::<u8>().wrapping_sub(1 << 20), 2 << 20);
    range("marks", MARKS.as_ptr(), size_of_val(&MARKS));
    alone::rows();
    together::models();
    println!("end");
}
