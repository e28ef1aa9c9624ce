//! Where hypervisors differ.

/// Whom to follow where hypervisors differ: each row is what a guest sees in one situation, from
/// this crate in either dialect, and from QEMU (`hw/ppc/spapr_softmmu.c`, `spapr_hcall.c`) and KVM
/// (`arch/powerpc/kvm/book3s_hv_rm_mmu.c`). All else is the same in all four.
///
/// | situation | `Papr` | QEMU | `Kvm` | KVM |
/// | --- | --- | --- | --- | --- |
/// | `H_ENTER`, V = 0 | a valid entry | the entry as given, which is none | a valid entry | a valid entry |
/// | `H_ENTER`, B = 0b1x | `H_PARAMETER` | entered | `H_PARAMETER` | `H_PARAMETER` |
/// | `H_ENTER`, memory not WIMG 0010 | `H_PARAMETER` | `H_PARAMETER` | entered | entered |
/// | `H_ENTER`, a device not WIMG 01xx | `H_PARAMETER` | `H_PARAMETER` | entered | entered |
/// | `H_ENTER`, page number bits between LP and the page | `H_PARAMETER` | `H_PARAMETER` | entered | entered |
/// | `H_ENTER`, memory in smaller pieces | `H_PARAMETER` | entered: it has none such | `H_PARAMETER` | `H_PARAMETER` |
/// | `H_ENTER`, TS | kept | kept | cleared | cleared |
/// | `H_ENTER`, `ZERO_PAGE` | the page is zeroed | ignored | ignored | ignored |
/// | `H_ENTER`, page number bits that layout V3 lacks | `H_PARAMETER` | has no such table | `H_PARAMETER` | kept beside the table |
/// | `H_ENTER`, virtual address bits that layout V3 lacks | cut off | has no such table | cut off | cut off |
/// | `H_READ` of an entry that changed | as entered | bit 57 set too | as entered | as entered |
/// | `H_READ` of an entry that was removed | zeros | bit 57 set | zeros | the second doubleword is still there |
/// | `H_BULK_REMOVE`, a specifier that is no request | becomes a response, `H_PARAMETER` | untouched, `H_PARAMETER` | becomes a response, `H_PARAMETER` | becomes a response, `H_PARAMETER` |
/// | `H_CLEAR_REF` | the second doubleword | `H_FUNCTION` | the second doubleword | the second doubleword |
/// | `H_CLEAR_MOD` | the second doubleword | `H_FUNCTION` | the second doubleword | the second doubleword |
/// | `H_PAGE_INIT`, flags of memory over-commitment | ignored | `H_PARAMETER` | ignored | ignored |
///
/// (Each row is a test: `tests/hash_dialects.rs`.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Dialect {
    /// PAPR: what it leaves to the hypervisor is as QEMU has it, but for these rows.
    Papr,
    /// KVM: what its guests see. Its hypervisor overrides WIMG that does not fit, unseen by the
    /// guest.
    #[default]
    Kvm,
}
