//! Frames as the memory that tables stand in: what a source's memory answers is passed on.

use core::sync::atomic::AtomicU64;

use pgtable::Address;
use pgtable::memory::{Appeared, MemoryError, ReadMemory, TableMemory};

use crate::frames::Frames;
use crate::source::{FrameSource, Region};

/// Both traits for `$type`, whose `$inner` method gives the memory `$memory`.
macro_rules! passes_on {
    ([$($generics:tt)*] $type:ty, $inner:ident: $memory:ty) => {
        impl<A: Address, $($generics)*> ReadMemory<A> for $type
        where
            $memory: ReadMemory<A>,
        {
            #[inline(always)]
            fn load(&self, address: A) -> Result<u64, MemoryError> {
                self.$inner().load(address)
            }

            #[inline(always)]
            fn compare_exchange(
                &self,
                address: A,
                current: u64,
                new: u64,
            ) -> Result<bool, MemoryError> {
                self.$inner().compare_exchange(address, current, new)
            }

            #[inline(always)]
            fn load_u32(&self, address: A) -> Result<u32, MemoryError> {
                self.$inner().load_u32(address)
            }

            #[inline(always)]
            fn compare_exchange_u32(
                &self,
                address: A,
                current: u32,
                new: u32,
            ) -> Result<bool, MemoryError> {
                self.$inner().compare_exchange_u32(address, current, new)
            }

            #[inline(always)]
            fn is_writable(&self, address: A) -> bool {
                self.$inner().is_writable(address)
            }

            #[inline(always)]
            fn in_place(&self, address: A, words: usize) -> Option<&[AtomicU64]> {
                self.$inner().in_place(address, words)
            }
        }

        impl<A: Address, $($generics)*> TableMemory<A> for $type
        where
            $memory: TableMemory<A>,
        {
            #[inline(always)]
            fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
                self.$inner().word(address)
            }

            #[inline(always)]
            fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
                self.$inner().table(address, words)
            }

            #[inline(always)]
            fn wrote(&self, address: A, words: usize) {
                self.$inner().wrote(address, words);
            }

            #[inline(always)]
            fn appeared(&self, appeared: Appeared) {
                self.$inner().appeared(appeared);
            }
        }
    };
}

passes_on!([M, H, const SMALLEST: u8] Region<A, M, H, SMALLEST>, memory: M);
passes_on!([S: FrameSource<A>] Frames<A, S>, source: S);
