//! The guest's tables, as memory that the first stage walks: each word is reached through the
//! second.

use core::cell::Cell;

use crate::access::Access;
use crate::address::{Gpa, Hpa, low_bits};
use crate::fault::Fault;
use crate::format::{FirstStage, Format, SecondStage};
use crate::geometry::{Level, MAX_LEVELS, Position};
use crate::memory::{MemoryError, ReadMemory};
use crate::stage::Stage2;
use crate::word::swap;

use super::{Step, TwoStage};

/// Guest-physical table memory, as far as it is remembered where stage 2 shows it. It forgets
/// nothing, so it may be asked anything.
pub(super) struct Remembered<'s, 'c, F1, F2: Format<Stage = Stage2>, M, const N: usize> {
    pub(super) stage: &'s TwoStage<'c, F1, F2, M, N>,
    /// The level of the next word of the walk.
    pub(super) level: Cell<u8>,
}

impl<F1, F2, M, const N: usize> ReadMemory<Gpa> for Remembered<'_, '_, F1, F2, M, N>
where
    F1: FirstStage,
    F2: SecondStage,
    M: ReadMemory<Hpa>,
{
    #[inline(always)]
    fn load(&self, address: Gpa) -> Result<u64, MemoryError> {
        self.stage.stage2.memory().load(self.place(address)?)
    }

    #[inline]
    fn load_u32(&self, address: Gpa) -> Result<u32, MemoryError> {
        self.stage.stage2.memory().load_u32(self.place(address)?)
    }

    /// Translations write nothing.
    fn compare_exchange(&self, address: Gpa, _: u64, _: u64) -> Result<bool, MemoryError> {
        Err(MemoryError::read_only(address, 1))
    }

    fn is_writable(&self, _: Gpa) -> bool {
        false
    }
}

impl<F1, F2: Format<Stage = Stage2>, M, const N: usize> Remembered<'_, '_, F1, F2, M, N> {
    /// Where the next word of the walk stands, which is at `address`.
    #[inline(always)]
    fn place(&self, address: Gpa) -> Result<Hpa, MemoryError> {
        let level = self.level.replace(self.level.get().wrapping_sub(1));
        let step = self.stage.steps[usize::from(level) % MAX_LEVELS].get();
        let within = address.get().wrapping_sub(step.page);
        if within >= step.bytes {
            return Err(MemoryError::outside(address, 1));
        }
        Ok(Hpa::new(step.output.wrapping_add(within)))
    }
}

/// The same, as far as nothing is left to be recorded in its words, which are a walk's from the
/// root down.
pub(super) struct Recorded<'s, 'c, F1, F2: Format<Stage = Stage2>, M, const N: usize> {
    pub(super) remembered: Remembered<'s, 'c, F1, F2, M, N>,
    pub(super) access: Access,
}

impl<F1, F2, M, const N: usize> ReadMemory<Gpa> for Recorded<'_, '_, F1, F2, M, N>
where
    F1: FirstStage,
    F2: SecondStage,
    M: ReadMemory<Hpa>,
{
    fn load(&self, address: Gpa) -> Result<u64, MemoryError> {
        let level = Level(self.remembered.level.get());
        self.remembered.load(address).and_then(|loaded| self.judge(level, address, loaded))
    }

    fn load_u32(&self, address: Gpa) -> Result<u32, MemoryError> {
        let level = Level(self.remembered.level.get());
        let loaded = self.remembered.load_u32(address)?;
        self.judge(level, address, loaded.into()).map(|_| loaded)
    }

    /// Translations write nothing.
    fn compare_exchange(&self, address: Gpa, _: u64, _: u64) -> Result<bool, MemoryError> {
        Err(MemoryError::read_only(address, 1))
    }

    fn is_writable(&self, _: Gpa) -> bool {
        false
    }
}

impl<F1, F2, M, const N: usize> Recorded<'_, '_, F1, F2, M, N>
where
    F1: FirstStage,
    F2: SecondStage,
    M: ReadMemory<Hpa>,
{
    /// `loaded`, the walk's word of `level`, if nothing is left to be recorded in it.
    fn judge(&self, level: Level, address: Gpa, loaded: u64) -> Result<u64, MemoryError> {
        let (format, word) = (&self.remembered.stage.stage1, swap::<F1>(loaded));
        let bits = format.bits(Position { level, shift: format.geometry().shift(level) });
        let recorded =
            if level.0 == 0 { bits.used(word, self.access) } else { bits.table.made(word) };
        if recorded == word { Ok(loaded) } else { Err(MemoryError::outside(address, 1)) }
    }
}

/// Guest-physical table memory, as stage 2 shows it.
pub(super) struct Nested<'s, 'c, F1, F2: Format<Stage = Stage2>, M, const N: usize> {
    pub(super) stage: &'s TwoStage<'c, F1, F2, M, N>,
    /// How many words the walk has read.
    pub(super) taken: Cell<usize>,
    /// Each with its address, in memory order of bytes.
    pub(super) words: [Cell<(u64, u64)>; MAX_LEVELS],
    /// What stage 2 said when it refused.
    pub(super) failed: Cell<Option<Fault<F2>>>,
}

impl<F1, F2, M, const N: usize> ReadMemory<Gpa> for Nested<'_, '_, F1, F2, M, N>
where
    F1: FirstStage,
    F2: SecondStage,
    M: ReadMemory<Hpa>,
{
    fn load(&self, address: Gpa) -> Result<u64, MemoryError> {
        let (taken, place) = self.place(address)?;
        let word = self.stage.stage2.memory().load(place)?;
        self.words[taken].set((address.get(), word));
        Ok(word)
    }

    fn load_u32(&self, address: Gpa) -> Result<u32, MemoryError> {
        let (taken, place) = self.place(address)?;
        let word = self.stage.stage2.memory().load_u32(place)?;
        self.words[taken].set((address.get(), word.into()));
        Ok(word)
    }

    /// Translations write nothing.
    fn compare_exchange(&self, address: Gpa, _: u64, _: u64) -> Result<bool, MemoryError> {
        Err(MemoryError::read_only(address, 1))
    }

    fn is_writable(&self, _: Gpa) -> bool {
        false
    }
}

impl<F1, F2, M, const N: usize> Nested<'_, '_, F1, F2, M, N>
where
    F1: FirstStage,
    F2: SecondStage,
    M: ReadMemory<Hpa>,
{
    /// Which word of the walk the next is, and where it stands, which is at `address`.
    fn place(&self, address: Gpa) -> Result<(usize, Hpa), MemoryError> {
        let access = self.stage.stage2.format().guest_table_access();
        let translation = self.stage.second(address, access).map_err(|fault| {
            self.failed.set(Some(fault));
            MemoryError::outside(address, 1)
        })?;
        let taken = self.taken.replace(self.taken.get() + 1) % MAX_LEVELS;
        if self.stage.cache.is_some() {
            let within = low_bits(translation.shift);
            let output = translation.output.get() & !within;
            let level = usize::from(self.stage.stage1.geometry().root().0).wrapping_sub(taken);
            self.stage.steps[level % MAX_LEVELS].set(Step {
                page: address.get() & !within,
                bytes: 1 << translation.shift,
                output,
            });
        }
        Ok((taken, translation.output))
    }
}
