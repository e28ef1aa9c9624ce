//! The guest’s code: the bytes that `guest.S` became, and where its stubs are in them.

/// The guest’s code, as it lies in this program.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// What goes to guest real address 0.
    pub bytes: &'static [u8],
    /// Offset of the page of stubs.
    pub stubs: u64,
    /// Offsets of the stubs, from the start of their page.
    pub entry: Entries,
    /// A function that adds one to the probe’s value: `addi r15, r15, 1; blr`.
    target: &'static [u8],
}

/// Offsets of the stubs, from the start of their page.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    /// Loads.
    pub load: u64,
    /// Stores.
    pub store: u64,
    /// Calls.
    pub fetch: u64,
    /// Runs `tlbie` with RIC = 0: translations.
    pub tlbie_tlb: u64,
    /// Runs `tlbie` with RIC = 1: the page-walk cache.
    pub tlbie_pwc: u64,
    /// Runs `tlbie` with RIC = 2: both, and the cached process-table entry.
    pub tlbie_all: u64,
    /// Edits a table between loads.
    pub edit: u64,
    /// Makes a hypercall.
    pub hcall: u64,
    /// Writes an SLB entry.
    pub slbmte: u64,
    /// Drops the SLB entry of an address.
    pub slbie: u64,
    /// Drops all SLB entries but the first.
    pub slbia: u64,
    /// Puts off the decrementer, prints a line.
    pub hello: u64,
}

impl Image {
    /// A function that adds `addend` to the probe’s value.
    pub fn target(&self, addend: i16) -> Vec<u8> {
        let mut code = self.target.to_vec();
        // The immediate operand of `addi` is the low half of its word, and the guest is
        // little-endian.
        code[..2].copy_from_slice(&addend.to_le_bytes());
        code
    }

    /// The code, if this program was built for a machine that runs it.
    #[cfg(all(target_arch = "powerpc64", target_endian = "little"))]
    pub fn linked() -> Option<Self> {
        use std::slice;

        unsafe extern "C" {
            static probe_guest_start: u8;
            static probe_guest_stubs: u8;
            static probe_guest_load: u8;
            static probe_guest_store: u8;
            static probe_guest_fetch: u8;
            static probe_guest_tlbie_tlb: u8;
            static probe_guest_tlbie_pwc: u8;
            static probe_guest_tlbie_all: u8;
            static probe_guest_edit: u8;
            static probe_guest_hcall: u8;
            static probe_guest_slbmte: u8;
            static probe_guest_slbie: u8;
            static probe_guest_slbia: u8;
            static probe_guest_hello: u8;
            static probe_guest_target: u8;
            static probe_guest_target_end: u8;
            static probe_guest_end: u8;
        }

        // SAFETY: `guest.S` defines these symbols, in this order, in one read-only section.
        // Everything between the first and the last is initialised and never changes.
        unsafe {
            let start = &raw const probe_guest_start;
            let stubs = &raw const probe_guest_stubs;
            let target = &raw const probe_guest_target;
            let between = |from: *const u8, to: *const u8| to.offset_from(from).unsigned_abs();
            let entry = |symbol| between(stubs, symbol) as u64;
            Some(Self {
                bytes: slice::from_raw_parts(start, between(start, &raw const probe_guest_end)),
                stubs: between(start, stubs) as u64,
                entry: Entries {
                    load: entry(&raw const probe_guest_load),
                    store: entry(&raw const probe_guest_store),
                    fetch: entry(&raw const probe_guest_fetch),
                    tlbie_tlb: entry(&raw const probe_guest_tlbie_tlb),
                    tlbie_pwc: entry(&raw const probe_guest_tlbie_pwc),
                    tlbie_all: entry(&raw const probe_guest_tlbie_all),
                    edit: entry(&raw const probe_guest_edit),
                    hcall: entry(&raw const probe_guest_hcall),
                    slbmte: entry(&raw const probe_guest_slbmte),
                    slbie: entry(&raw const probe_guest_slbie),
                    slbia: entry(&raw const probe_guest_slbia),
                    hello: entry(&raw const probe_guest_hello),
                },
                target: slice::from_raw_parts(
                    target,
                    between(target, &raw const probe_guest_target_end),
                ),
            })
        }
    }

    /// The code, if this program was built for a machine that runs it.
    #[cfg(not(all(target_arch = "powerpc64", target_endian = "little")))]
    pub fn linked() -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs where there is code: on POWER, or in an emulator of its user mode.
    #[test]
    fn the_stubs_are_one_page_inside_the_code() {
        let Some(image) = Image::linked() else { return };
        assert!(image.stubs % 0x1000 == 0);
        assert!(image.stubs + 0x1000 <= image.bytes.len() as u64, "{:#x}", image.bytes.len());
        assert_eq!(image.entry.load, 0);
        assert!(image.entry.hello < 0x1000);
        assert_eq!(image.target(-2), [0xfe, 0xff, 0xef, 0x39, 0x20, 0x00, 0x80, 0x4e]);
    }
}
