//! What the memory of [`GuestBytes`](super::GuestBytes) may be given as.

use core::ops::Deref;

use super::memory::ByteMemory;
use crate::address::Address;

/// Memory as a caller gives it to [`GuestBytes::new`](super::GuestBytes::new): a reference to it
/// (`&memory`), or to a pointer to it (`&arc`, `&boxed`, the guard of `GuestMemoryAtomic::memory`).
/// `How` tells the two apart and is always inferred.
///
/// ```
/// use std::sync::Arc;
/// # use pgtable_conformance::prelude::*;
/// # pgtable_conformance::example!(bytes: walker, memory, bytes);
/// # let memory = memory.clone();
/// let shared = Arc::new(memory);
/// GuestBytes::new(&walker, &shared).write(Gva::new(0x1ffc), b"over two pages")?;
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not refer to bytes at addresses of type `{A}`",
    note = "give a reference to guest memory, or to a pointer to it: with pgtable's feature `vm-memory`, every `vm_memory::GuestMemory` gives bytes, `GuestTables` over it do not",
    note = "`pgtable::bytes::WordBytes` wraps any `TableMemory`"
)]
pub trait GiveBytes<'m, A: Address, How>: given::Given<How> {
    /// The memory.
    type Bytes: ByteMemory<A> + ?Sized;

    /// The memory.
    #[doc(hidden)]
    fn bytes(self) -> &'m Self::Bytes;
}

mod given {
    /// No other crate adds a row.
    pub trait Given<How> {}

    impl<B: ?Sized> Given<Itself> for &B {}
    impl<P> Given<Behind> for &P {}

    /// The memory itself.
    #[derive(Debug)]
    pub enum Itself {}
    /// What derefs to it.
    #[derive(Debug)]
    pub enum Behind {}
}

impl<'m, A: Address, B: ByteMemory<A> + ?Sized> GiveBytes<'m, A, given::Itself> for &'m B {
    type Bytes = B;

    fn bytes(self) -> &'m B {
        self
    }
}

impl<'m, A: Address, P: Deref<Target: ByteMemory<A>>> GiveBytes<'m, A, given::Behind> for &'m P {
    type Bytes = P::Target;

    fn bytes(self) -> &'m P::Target {
        self
    }
}
