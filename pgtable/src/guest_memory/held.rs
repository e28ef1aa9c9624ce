//! What guest memory may be given as, and what keeps it mapped.

extern crate std;

use core::any::Any;
use core::ops::Deref;
use std::sync::Arc;

use vm_memory::GuestMemoryBackend;

/// Guest memory as [`GuestTables`](super::GuestTables) keep it mapped: borrowed (`&'m M`), or as
/// one of its owners (`Arc<M>`; `'m` is `'static` then).
///
/// [`GiveMemory`] makes one of what a caller has.
pub trait HeldMemory<'m>: Clone + sealed::Held {
    /// The guest memory.
    type Memory: GuestMemoryBackend;

    /// The guest memory.
    fn memory(&self) -> &Self::Memory;

    /// What keeps it mapped beyond a borrow.
    #[doc(hidden)]
    fn owner(self) -> Option<Arc<dyn Any + Send + Sync>>;
}

/// Guest memory as a caller gives it. `How` tells the rows apart and is always inferred.
///
/// | argument | what is held |
/// | --- | --- |
/// | `&memory` | a borrow |
/// | `&arc`, `&boxed`, `&guard` (of `GuestMemoryAtomic::memory`) | a borrow of what is behind it |
/// | `Arc::clone(&arc)`, `guard.into_inner()` | one of its owners: the tables are `'static` |
/// | `memory.clone()`, by value | the same; the clone shares the regions |
///
/// ```
/// use std::sync::Arc;
/// use pgtable::Gpa;
/// use pgtable::memory::GuestTables;
/// use vm_memory::{GuestAddress, GuestMemoryMmap};
///
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1_0000)])?;
/// let arc = Arc::new(memory.clone());
/// let borrowed: [GuestTables<'_, Gpa>; 2] = [GuestTables::new(&memory)?, GuestTables::new(&arc)?];
/// let owned: [GuestTables<'static, Gpa>; 2] =
///     [GuestTables::new(memory.clone())?, GuestTables::new(Arc::clone(&arc))?];
/// # let _ = (borrowed, owned);
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not guest memory that tables can keep mapped",
    note = "borrow it: `&memory`, where `memory` is a `GuestMemoryMmap` or derefs to one (`Arc`, the guard of `GuestMemoryAtomic::memory()`)",
    note = "or own it: `Arc::clone(&memory)`, or a `GuestMemoryMmap` by value; the tables are `'static` then"
)]
pub trait GiveMemory<'m, How>: sealed::Given<How> {
    /// What is held.
    type Held: HeldMemory<'m>;

    /// The guest memory, held.
    #[doc(hidden)]
    fn held(self) -> Self::Held;
}

mod sealed {
    /// Only of a borrow and of an `Arc` is it known what they keep.
    pub trait Held {}

    impl<M> Held for &M {}
    impl<M> Held for super::Arc<M> {}

    /// Only the rows of [`GiveMemory`](super::GiveMemory) are.
    pub trait Given<How> {}

    impl<M> Given<Borrowed> for &M {}
    impl<P> Given<Behind> for &P {}
    impl<M> Given<Shared> for super::Arc<M> {}
    impl<M> Given<Whole> for M {}

    /// A reference to the memory.
    #[derive(Debug)]
    pub enum Borrowed {}
    /// A reference to what derefs to the memory.
    #[derive(Debug)]
    pub enum Behind {}
    /// An owner of the memory.
    #[derive(Debug)]
    pub enum Shared {}
    /// The memory itself.
    #[derive(Debug)]
    pub enum Whole {}
}

impl<'m, M: GuestMemoryBackend> HeldMemory<'m> for &'m M {
    type Memory = M;

    fn memory(&self) -> &M {
        self
    }

    fn owner(self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> HeldMemory<'static> for Arc<M> {
    type Memory = M;

    fn memory(&self) -> &M {
        self
    }

    fn owner(self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self)
    }
}

impl<'m, M: GuestMemoryBackend> GiveMemory<'m, sealed::Borrowed> for &'m M {
    type Held = Self;

    fn held(self) -> Self {
        self
    }
}

impl<'m, P: Deref<Target: GuestMemoryBackend + Sized>> GiveMemory<'m, sealed::Behind> for &'m P {
    type Held = &'m P::Target;

    fn held(self) -> &'m P::Target {
        self
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> GiveMemory<'static, sealed::Shared> for Arc<M> {
    type Held = Self;

    fn held(self) -> Self {
        self
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> GiveMemory<'static, sealed::Whole> for M {
    type Held = Arc<M>;

    fn held(self) -> Arc<M> {
        Arc::new(self)
    }
}

/// Tables over what each row of [`GiveMemory`] gives see the same words, and the owned ones outlive
/// the caller's handles.
#[cfg(test)]
mod tests {
    use super::Arc;
    use crate::address::Gpa;
    use crate::memory::{GuestTables, ReadMemory, TrackedTables};
    use alloc::boxed::Box;
    use alloc::rc::Rc;
    use core::ops::Deref;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    const AT: u64 = 0x1238;

    /// As the guard of `GuestMemoryAtomic::memory()`.
    struct Guard(Arc<GuestMemoryMmap>);

    impl Deref for Guard {
        type Target = GuestMemoryMmap;

        fn deref(&self) -> &GuestMemoryMmap {
            &self.0
        }
    }

    fn sees(memory: &impl ReadMemory<Gpa>, row: &str) {
        assert_eq!(memory.load(Gpa::new(AT)), Ok(7), "{row}");
    }

    #[test]
    fn every_row() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        memory.write_obj(7_u64.to_le(), GuestAddress(AT)).unwrap();
        let arc = Arc::new(memory.clone());
        let (boxed, rc) = (Box::new(memory.clone()), Rc::new(memory.clone()));
        let guard = Guard(Arc::clone(&arc));
        sees(&GuestTables::new(&memory).unwrap(), "&memory");
        sees(&GuestTables::new(&arc).unwrap(), "&arc");
        sees(&GuestTables::new(&&memory).unwrap(), "&&memory");
        sees(&GuestTables::new(&boxed).unwrap(), "&box");
        sees(&GuestTables::new(&rc).unwrap(), "&rc");
        sees(&GuestTables::new(&guard).unwrap(), "&guard");
        sees(&TrackedTables::new(&arc).unwrap(), "tracked &arc");

        let owned: [(GuestTables<'static, Gpa>, _); 3] = [
            (GuestTables::new(Arc::clone(&arc)).unwrap(), "arc"),
            (GuestTables::new(guard.0).unwrap(), "guard.into_inner()"),
            (GuestTables::new(memory.clone()).unwrap(), "memory"),
        ];
        let tracked = TrackedTables::<'static, _, Gpa>::new(memory).unwrap();
        drop((arc, boxed, rc));
        for (tables, row) in &owned {
            sees(tables, row);
        }
        sees(&tracked, "tracked memory");
    }
}
