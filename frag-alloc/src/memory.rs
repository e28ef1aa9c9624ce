//! Frames as the memory that tables stand in: what a source's memory answers is passed on.

use pgtable::Address;
use pgtable::memory::{ReadMemory, TableMemory};

use crate::frames::Frames;
use crate::source::{FrameSource, Region};

impl<A: Address, M: ReadMemory<A>, H, const SMALLEST: u8> ReadMemory<A>
    for Region<A, M, H, SMALLEST>
{
    pgtable::read_within!(A, |region| *region.memory());
}

impl<A: Address, M: TableMemory<A>, H, const SMALLEST: u8> TableMemory<A>
    for Region<A, M, H, SMALLEST>
{
    pgtable::tables_within!(A, |region| *region.memory());
}

impl<A: Address, S: FrameSource<A> + ReadMemory<A>> ReadMemory<A> for Frames<A, S> {
    pgtable::read_within!(A, |frames| *frames.source());
}

impl<A: Address, S: FrameSource<A> + TableMemory<A>> TableMemory<A> for Frames<A, S> {
    pgtable::tables_within!(A, |frames| *frames.source());
}
