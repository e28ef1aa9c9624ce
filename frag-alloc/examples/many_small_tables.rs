//! Tables of many guests share frames: 256-byte tables in 64-KiB frames, whose frame is whose, and
//! what is left when guests go.

use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::{Contents, TableAllocator, TableLayout};
use pgtable::memory::DirectMap;
use pgtable::{Hpa, Level};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FRAMES: usize = 8;
    let words: Vec<_> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let start = Hpa::new(0x100_0000);
    let memory = DirectMap::new(&words, start);
    let frames = Frames::new(Region::new(memory, start, FRAMES as u32, 16)?)?;
    let leaf = TableLayout { shift: 8, level: Level(0) };

    let guests = [1, 2].map(|owner| Cache::new(&frames, Owner(owner), Kind::User, Policy::Reuse));
    let mut tables = Vec::new();
    for turn in 0..600 {
        tables.push((turn % 2, guests[turn % 2].allocate(leaf)?));
    }
    let census = frames.census();
    println!("{} tables stand in {} frames", census.live, census.table_frames);

    // Whose is the table at this address?
    let (_, last) = tables[599];
    let frame = frames.try_get(last)?.and_then(|frame| frame.table_frame());
    println!("{last} is in a frame of {:?}", frame.map(|frame| frame.owner));

    for (guest, table) in tables {
        guests[guest].free(table, leaf, Contents::Zeroed)?;
    }
    let again = guests[1].free(last, leaf, Contents::Zeroed).expect_err("not allowed");
    println!("freed twice: {again}");
    for guest in &guests {
        guest.close()?;
    }
    assert!(frames.census().all_home());
    Ok(())
}
