//! What tree tables and hashed tables share: the interface that embedders write their code against.

use core::ops::ControlFlow;

use crate::access::{Access, Attributes, Prot};
use crate::error::RangeError;
use crate::gather::{Gather, Invalidate};
use crate::stage::Stage;

/// The input address type of a space.
pub type InputOf<T> = <<T as AddressSpace>::Stage as Stage>::Input;
/// The output address type of a space.
pub type OutputOf<T> = <<T as AddressSpace>::Stage as Stage>::Output;

/// Which leaf sizes a mapping may use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Leaves {
    /// The largest that alignment and the format allow, each time anew along the range.
    #[default]
    Largest,
    /// As `Largest`, but none above `2^shift` bytes.
    AtMost(u8),
    /// Pages of `2^shift` bytes only.
    Exactly(u8),
}

/// Where an address translates to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation<A, T> {
    /// The output address, the offset within the page included.
    pub output: A,
    /// log2 of the page's size.
    pub shift: u8,
    /// What the leaf says. The entries above it may allow less.
    pub attributes: T,
}

/// One mapping of an iteration: a leaf, or a run of neighbouring leaves if they were coalesced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping<I, O, T> {
    /// The first input address.
    pub input: I,
    /// Where it translates to.
    pub output: O,
    /// Its length in bytes.
    pub bytes: u64,
    /// log2 of the size of its leaves.
    pub shift: u8,
    /// What its leaves say.
    pub attributes: T,
}

/// [`Mapping`] of a space.
pub type MappingOf<T> = Mapping<InputOf<T>, OutputOf<T>, <T as AddressSpace>::Attributes>;

/// An address space: map, unmap, modify, translate, iterate.
///
/// Lengths are in bytes. A range operation that fails says exactly how far it came
/// ([`RangeError`]): everything before that address is done, nothing from it on was changed.
pub trait AddressSpace {
    /// The stage it is.
    type Stage: Stage;
    /// What a mapping says besides its address.
    type Attributes: Attributes;
    /// Why an access does not translate.
    type Fault: core::error::Error;

    /// Maps `bytes` bytes from `input` on to those from `output` on. A gather that holds what was
    /// unmapped there is finished before: see [mapping again](crate::invalidate#mapping-again).
    ///
    /// # Errors
    /// [`Error::Mapped`](crate::Error::Mapped) where something is mapped already, and as
    /// [`RangeError`] says.
    fn map(
        &mut self,
        input: InputOf<Self>,
        output: OutputOf<Self>,
        bytes: u64,
        attributes: Self::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<InputOf<Self>>>;

    /// Unmaps whatever is mapped in the `bytes` bytes from `input` on; returns how many bytes that
    /// were. Leaves that reach beyond the range are split. Holes are no error.
    ///
    /// # Errors
    /// As [`RangeError`] says; splitting may need a table.
    fn unmap<I: Invalidate<Self::Stage>>(
        &mut self,
        input: InputOf<Self>,
        bytes: u64,
        gather: &mut Gather<'_, Self::Stage, I>,
    ) -> Result<u64, RangeError<InputOf<Self>>>;

    /// As [`unmap`](Self::unmap), and calls `each` for each leaf that is unmapped, in order, with
    /// what it said last: accessed and dirty as hardware left them.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    fn unmap_with<I: Invalidate<Self::Stage>>(
        &mut self,
        input: InputOf<Self>,
        bytes: u64,
        each: impl FnMut(MappingOf<Self>),
        gather: &mut Gather<'_, Self::Stage, I>,
    ) -> Result<u64, RangeError<InputOf<Self>>>;

    /// Gives each leaf in the `bytes` bytes from `input` on the attributes that `edit` says;
    /// returns how many bytes are mapped there. Leaves that reach beyond the range are split. Holes
    /// are no error.
    ///
    /// `edit` is called again for a leaf that hardware changed meanwhile.
    ///
    /// # Errors
    /// As [`RangeError`] says; splitting may need a table.
    fn modify<I: Invalidate<Self::Stage>>(
        &mut self,
        input: InputOf<Self>,
        bytes: u64,
        edit: impl FnMut(MappingOf<Self>) -> Self::Attributes,
        gather: &mut Gather<'_, Self::Stage, I>,
    ) -> Result<u64, RangeError<InputOf<Self>>>;

    /// Gives whatever is mapped in the `bytes` bytes from `input` on these rights, and changes
    /// nothing else: memory type, software bits and what hardware recorded stay.
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    fn protect<I: Invalidate<Self::Stage>>(
        &mut self,
        input: InputOf<Self>,
        bytes: u64,
        prot: Prot,
        gather: &mut Gather<'_, Self::Stage, I>,
    ) -> Result<u64, RangeError<InputOf<Self>>> {
        self.modify(input, bytes, |leaf| leaf.attributes.with_prot(prot), gather)
    }

    /// Takes the right to write from whatever is mapped in the `bytes` bytes from `input` on, and
    /// changes nothing else.
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    fn write_protect<I: Invalidate<Self::Stage>>(
        &mut self,
        input: InputOf<Self>,
        bytes: u64,
        gather: &mut Gather<'_, Self::Stage, I>,
    ) -> Result<u64, RangeError<InputOf<Self>>> {
        let edit = |leaf: MappingOf<Self>| {
            leaf.attributes.with_prot(leaf.attributes.prot().with_write(false))
        };
        self.modify(input, bytes, edit, gather)
    }

    /// Replaces all attributes of whatever is mapped in the `bytes` bytes from `input` on: rights,
    /// memory type and software bits. What hardware recorded (accessed, dirty) stays.
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    fn set_attributes<I: Invalidate<Self::Stage>>(
        &mut self,
        input: InputOf<Self>,
        bytes: u64,
        attributes: Self::Attributes,
        gather: &mut Gather<'_, Self::Stage, I>,
    ) -> Result<u64, RangeError<InputOf<Self>>>;

    /// Translates one access.
    ///
    /// # Errors
    /// The fault that the hardware would raise.
    fn translate(
        &self,
        input: InputOf<Self>,
        access: Access,
    ) -> Result<Translation<OutputOf<Self>, Self::Attributes>, Self::Fault>;

    /// Calls `visit` for each leaf in the `bytes` bytes from `input` on, in order, until it breaks.
    ///
    /// # Errors
    /// As [`RangeError`] says.
    fn for_each<B>(
        &self,
        input: InputOf<Self>,
        bytes: u64,
        visit: impl FnMut(MappingOf<Self>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<InputOf<Self>>>;

    /// log2 of the base page: the smallest page that [`map`](Self::map) makes of its own accord.
    /// Ranges of whole such pages can always be mapped, changed and unmapped.
    fn page_shift(&self) -> u8;

    /// log2 of the leaf sizes that the space can hold, ascending. Those below
    /// [`page_shift`](Self::page_shift) stand only where something else put them, or in tables made
    /// for them by [`Leaves::Exactly`].
    fn leaf_shifts(&self) -> arrayvec::ArrayVec<u8, 32>;

    /// A contiguous range of inputs that all belong to the space: its first address and its length
    /// in bytes. (x86's lower half; there is another beyond the hole.)
    fn range(&self) -> (InputOf<Self>, u64);
}
