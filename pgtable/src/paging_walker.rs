//! A walker of whatever a vCPU's registers say at the moment: with translation on or off.

use core::fmt::Debug;

use crate::access::Access;
use crate::bytes::{Translate, TranslateRecording, TranslateUnjudged};
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::memory::ReadMemory;
use crate::space::Translation;
use crate::walk::Walker;

/// The tree that translates an access, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagingTree<F: Format> {
    /// None: translation is off. The address that the access goes to, and log2 of the bytes for
    /// which that holds.
    Off {
        /// The address.
        output: Output<F>,
        /// log2 of the size.
        shift: u8,
    },
    /// This one.
    On {
        /// The format.
        format: F,
        /// The root table.
        root: Output<F>,
        /// The address in the tree: after masking of pointers.
        input: Input<F>,
    },
}

impl<F: Format> PagingTree<F> {
    /// What `walk` makes of `access` in this tree, whose tables are in `memory`; or the address
    /// itself.
    ///
    /// # Errors
    /// The fault that the access takes.
    #[inline(always)]
    pub fn walk<M: ReadMemory<Output<F>>>(
        self,
        memory: &M,
        access: Access,
        walk: Walk,
    ) -> Result<PagingTranslation<F>, Fault<F>> {
        let (format, root, input) = match self {
            Self::Off { output, shift } => {
                return Ok(Translation { output, shift, attributes: None });
            }
            Self::On { format, root, input } => (format, root, input),
        };
        let walker = Walker::new(format, memory, root);
        let Translation { output, shift, attributes } = match walk {
            Walk::Translate => walker.translate(input, access),
            Walk::Record => walker.access(input, access),
            Walk::Debug => walker.debug_translate(input, access),
        }?;
        Ok(Translation { output, shift, attributes: Some(attributes) })
    }
}

/// Where an address goes, by trees of `F`. Attributes are `None` while translation is off.
pub type PagingTranslation<F> = Translation<Output<F>, Option<<F as Format>::Attributes>>;

/// What a walk does with an access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Walk {
    /// Judges it, and records nothing ([`Walker::translate`]).
    Translate,
    /// Judges it, and records it as accessed and dirty ([`Walker::access`]).
    Record,
    /// Allows it whatever the rights are, and records nothing ([`Walker::debug_translate`]).
    Debug,
}

/// How a vCPU translates at the moment, as its registers say.
pub trait PagingState: Copy + Debug {
    /// The format in whose terms translations and faults are told. A mode whose tables have another
    /// format translates by that and converts.
    type Format: Format;

    /// What `walk` makes of `access` to `input`, with tables in `memory`. With one format it is
    /// [`PagingTree::walk`] of the tree that translates the access.
    ///
    /// # Errors
    /// The fault that the access takes.
    fn walk<M: ReadMemory<Output<Self::Format>>>(
        &self,
        memory: &M,
        input: Input<Self::Format>,
        access: Access,
        walk: Walk,
    ) -> Result<PagingTranslation<Self::Format>, Fault<Self::Format>>;
}

/// Translates a vCPU's virtual addresses as its registers say. Attributes are `None` while
/// translation is off.
///
/// By itself it judges each access and records nothing; [`Recording`](crate::bytes::Recording) also
/// sets accessed and dirty bits; [`Debugger`](crate::bytes::Debugger) reaches whatever is mapped,
/// and writes read-only pages.
#[derive(Clone, Copy, Debug)]
pub struct PagingWalker<P, M> {
    paging: P,
    memory: M,
}

impl<P, M> PagingWalker<P, M> {
    /// A walker of the tables in `memory`, by `paging`.
    #[must_use]
    pub const fn new(paging: P, memory: M) -> Self
    where
        P: Copy,
    {
        Self { paging, memory }
    }
}

/// Where an address goes, by the trees of `P`.
type Found<P> = PagingTranslation<<P as PagingState>::Format>;

impl<P: PagingState, M: ReadMemory<Output<P::Format>>> Translate for PagingWalker<P, M> {
    type Input = Input<P::Format>;
    type Output = Output<P::Format>;
    type Attributes = Option<<P::Format as Format>::Attributes>;
    type Fault = Fault<P::Format>;

    #[inline(always)]
    fn translate(&self, input: Self::Input, access: Access) -> Result<Found<P>, Self::Fault> {
        self.paging.walk(&self.memory, input, access, Walk::Translate)
    }
}

impl<P: PagingState, M: ReadMemory<Output<P::Format>>> TranslateRecording for PagingWalker<P, M> {
    fn access(&self, input: Self::Input, access: Access) -> Result<Found<P>, Self::Fault> {
        self.paging.walk(&self.memory, input, access, Walk::Record)
    }
}

impl<P: PagingState, M: ReadMemory<Output<P::Format>>> TranslateUnjudged for PagingWalker<P, M> {
    fn debug_translate(&self, input: Self::Input, access: Access) -> Result<Found<P>, Self::Fault> {
        self.paging.walk(&self.memory, input, access, Walk::Debug)
    }
}
