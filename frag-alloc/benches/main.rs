//! frag-alloc beside general allocators and Linux's algorithm, in one process.
//!
//! `cargo bench --manifest-path frag-alloc/benches/Cargo.toml`. All contenders take turns, round
//! after round, and the best round counts; a table is taken, its first word is set and cleared
//! again (a page table's life), and it is given back. Every table must come zeroed and aligned to
//! its size. The last lines say which goals are reached.

mod contenders;
mod linux;
mod memory;
mod speed;

/// A measured ratio beside the bound it was to reach.
fn goal(name: &str, measured: f64, bound: f64, reached: bool) {
    println!("goal {name} {measured:.3} {bound:.3} {}", if reached { "ok" } else { "short" });
}

fn main() {
    let pair = speed::pairs();
    let threads = speed::two_threads();
    let cross = speed::cross_thread();
    let churn = memory::churn();
    memory::sparse();
    let (small, overhead) = memory::books();
    println!();
    goal("pair-256-over-best-peer", pair, 0.9, pair <= 0.9);
    goal("two-threads-over-one", threads, 1.8, threads >= 1.8);
    goal("cross-thread-free-over-best-peer", cross, 1.0, cross <= 1.0);
    println!("books of tables from 256 B on: {:.1} % of frames of 64 KiB", small * 100.0);
    goal("books-of-4-KiB-tables-over-frames", overhead, 0.01, overhead <= 0.01);
    goal("churn-frames-held-over-needed", churn, 1.15, churn <= 1.15);
}
