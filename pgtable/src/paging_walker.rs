//! A walker of whatever a vCPU's registers say at the moment: with translation on or off.

use core::fmt::Debug;

use crate::access::Access;
use crate::bytes::{Translate, TranslateRecording, TranslateUnjudged};
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::memory::ReadMemory;
use crate::space::Translation;
use crate::walk::{TranslationOf, Walker};

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

/// How a vCPU translates at the moment, as its registers say.
pub trait PagingState: Copy + Debug {
    /// The format of its trees.
    type Format: Format;

    /// The tree that translates `access` to `input`.
    ///
    /// # Errors
    /// The fault of an access that no tree translates.
    fn tree(
        &self,
        input: Input<Self::Format>,
        access: Access,
    ) -> Result<PagingTree<Self::Format>, Fault<Self::Format>>;
}

/// Translates a vCPU's virtual addresses as its registers say. Attributes are `None` while
/// translation is off.
///
/// By itself it judges each access and records nothing; [`Recording`](crate::Recording) also sets
/// accessed and dirty bits; [`Debugger`](crate::Debugger) reaches whatever is mapped, and writes
/// read-only pages.
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
type Found<P> = Translation<
    Output<<P as PagingState>::Format>,
    Option<<<P as PagingState>::Format as Format>::Attributes>,
>;

impl<P: PagingState, M: ReadMemory<Output<P::Format>>> PagingWalker<P, M> {
    /// What `walk` finds in the tree, or the address itself.
    #[inline(always)]
    fn go(
        &self,
        input: Input<P::Format>,
        access: Access,
        walk: impl FnOnce(
            Walker<P::Format, &M>,
            Input<P::Format>,
        ) -> Result<TranslationOf<P::Format>, Fault<P::Format>>,
    ) -> Result<Found<P>, Fault<P::Format>> {
        match self.paging.tree(input, access)? {
            PagingTree::Off { output, shift } => {
                Ok(Translation { output, shift, attributes: None })
            }
            PagingTree::On { format, root, input } => {
                let Translation { output, shift, attributes } =
                    walk(Walker::new(format, &self.memory, root), input)?;
                Ok(Translation { output, shift, attributes: Some(attributes) })
            }
        }
    }
}

impl<P: PagingState, M: ReadMemory<Output<P::Format>>> Translate for PagingWalker<P, M> {
    type Input = Input<P::Format>;
    type Output = Output<P::Format>;
    type Attributes = Option<<P::Format as Format>::Attributes>;
    type Fault = Fault<P::Format>;

    #[inline(always)]
    fn translate(&self, input: Self::Input, access: Access) -> Result<Found<P>, Self::Fault> {
        self.go(input, access, |walker, input| walker.translate(input, access))
    }
}

impl<P: PagingState, M: ReadMemory<Output<P::Format>>> TranslateRecording for PagingWalker<P, M> {
    fn access(&self, input: Self::Input, access: Access) -> Result<Found<P>, Self::Fault> {
        self.go(input, access, |walker, input| walker.access(input, access))
    }
}

impl<P: PagingState, M: ReadMemory<Output<P::Format>>> TranslateUnjudged for PagingWalker<P, M> {
    fn debug_translate(&self, input: Self::Input, access: Access) -> Result<Found<P>, Self::Fault> {
        self.go(input, access, |walker, input| walker.debug_translate(input, access))
    }
}
