//! What an EPT page says besides its address.

use pgtable::{Attributes, Level, Memory, Prot};

use crate::ept_entry::{EptPageEntry, MemoryType};

/// Leaf attributes in EPT. [`Prot::user`] means nothing here; [`Prot::execute`] stands for fetches
/// from supervisor-mode and user-mode linear addresses alike until
/// [`with_user_execute`](Self::with_user_execute) tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EptAttributes {
    /// The word of a 4-KiB page at address 0, its memory type left out.
    page: EptPageEntry,
    memory_type: MemoryType,
}

macro_rules! flags {
    ($($(#[$doc:meta])* $get:ident $set:ident = $field:ident $with:ident;)*) => {
        $(
            #[doc = concat!("Whether it is ", stringify!($get), ": see [`", stringify!($set), "`](Self::", stringify!($set), ").")]
            #[must_use]
            pub const fn $get(self) -> bool {
                self.page.$field()
            }

            $(#[$doc])*
            #[must_use]
            pub const fn $set(self, on: bool) -> Self {
                Self { page: self.page.$with(on), ..self }
            }
        )*
    };
}

impl EptAttributes {
    flags! {
        /// The same page with XU: under mode-based execute control, fetches from user-mode linear
        /// addresses are allowed.
        user_execute with_user_execute = xu with_xu;
        /// The same page with IPAT: the guest's own memory type does not count.
        ignore_pat with_ignore_pat = ipat with_ipat;
        /// The same page, accessed or not.
        accessed with_accessed = a with_a;
        /// The same page, dirty or not.
        dirty with_dirty = d with_d;
        /// The same page, whose violations never become #VE in the guest.
        suppress_ve with_suppress_ve = suppress_ve with_suppress_ve;
        /// The same page, a supervisor shadow stack.
        supervisor_shadow_stack with_supervisor_shadow_stack = supervisor_shadow_stack with_supervisor_shadow_stack;
        /// The same page, which a guest's page walk may write though W = 0.
        paging_write with_paging_write = paging_write with_paging_write;
        /// The same page, for which guest paging is verified.
        verify_guest_paging with_verify_guest_paging = verify_guest_paging with_verify_guest_paging;
    }

    /// The same page with another memory type.
    #[must_use]
    pub const fn with_memory_type(self, memory_type: MemoryType) -> Self {
        Self { memory_type, ..self }
    }

    /// The memory type.
    #[must_use]
    pub const fn memory_type(self) -> MemoryType {
        self.memory_type
    }

    /// The same page with these software bits: bit 0 in the entry's bit 11, bits 5:1 in its bits
    /// 56:52. Higher bits do not count.
    #[must_use]
    pub const fn with_software(self, bits: u8) -> Self {
        Self { page: self.page.with_avl(bits & 1 != 0).with_avl_high(bits >> 1 & 0x1f), ..self }
    }

    /// The software bits.
    #[must_use]
    pub const fn software(self) -> u8 {
        self.page.avl() as u8 | self.page.avl_high() << 1
    }

    /// The attributes of the leaf `word`; `None` if its memory type is reserved.
    #[inline(always)]
    pub(crate) const fn from_leaf(word: u64) -> Option<Self> {
        let page = EptPageEntry::from_bits(word);
        match MemoryType::decode(page.memory_type()) {
            Some(memory_type) => Some(Self {
                page: page.with_frame(0).with_ps(false).with_memory_type(0),
                memory_type,
            }),
            None => None,
        }
    }

    /// The leaf at `level` that maps address 0 with these attributes.
    #[inline(always)]
    pub(crate) const fn to_leaf(self, level: Level) -> u64 {
        self.page.with_memory_type(self.memory_type as u8).with_ps(level.0 > 0).into_bits()
    }
}

impl From<Prot> for EptAttributes {
    fn from(prot: Prot) -> Self {
        Self {
            page: EptPageEntry::new()
                .with_r(prot.read())
                .with_w(prot.write())
                .with_x(prot.execute())
                .with_xu(prot.execute())
                .with_a(true)
                .with_d(true),
            memory_type: MemoryType::WriteBack,
        }
    }
}

impl Attributes for EptAttributes {
    fn prot(&self) -> Prot {
        Prot::new().with_read(self.page.r()).with_write(self.page.w()).with_execute(self.page.x())
    }

    /// XU stays unless the right to execute changes.
    fn with_prot(self, prot: Prot) -> Self {
        let xu = if prot.execute() == self.page.x() { self.page.xu() } else { prot.execute() };
        let page = self.page.with_r(prot.read()).with_w(prot.write());
        Self { page: page.with_x(prot.execute()).with_xu(xu), ..self }
    }

    fn memory(&self) -> Memory {
        match self.memory_type {
            MemoryType::WriteBack | MemoryType::WriteThrough | MemoryType::WriteProtected => {
                Memory::Normal
            }
            MemoryType::WriteCombining => Memory::Uncached,
            MemoryType::Uncacheable => Memory::Device,
        }
    }

    fn with_memory(self, memory: Memory) -> Self {
        if self.memory() == memory {
            return self;
        }
        self.with_memory_type(match memory {
            Memory::Normal => MemoryType::WriteBack,
            Memory::Uncached => MemoryType::WriteCombining,
            Memory::Device => MemoryType::Uncacheable,
        })
    }
}
