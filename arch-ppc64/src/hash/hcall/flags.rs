//! The flags of the hypercalls, all in one word.

use bitfield_struct::bitfield;

/// The first argument of every call (PAPR "H_… flags"; Linux `asm/hvcall.h`).
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct HcallFlags {
    #[bits(16)]
    __: u16,
    /// 16 `LARGE_PAGE`: the page is large. The entry says so itself; the flag is not looked at (nor
    /// by KVM or QEMU).
    pub large_page: bool,
    #[bits(7)]
    __: u8,
    /// 24 `EXACT`: this very entry, no other of the group.
    pub exact: bool,
    /// 25 `R_XLATE`.
    pub r_xlate: bool,
    /// 26 `READ_4`: four entries.
    pub read_4: bool,
    __: bool,
    /// 28 `PAGE_STATE_CHANGE` (cooperative memory over-commitment).
    pub page_state_change: bool,
    /// 29:30: the page is not in use.
    #[bits(2)]
    pub page_unused: u8,
    /// 31: the page is lent.
    pub page_loaned: bool,
    /// 32 `AVPN`: only if the entry is of this page.
    pub avpn: bool,
    /// 33 `ANDCOND`: only if none of these bits of the first doubleword is set.
    pub andcond: bool,
    __: bool,
    /// 35 `LOCAL`: only this processor has used the translation.
    pub local: bool,
    #[bits(4)]
    __: u8,
    /// 40 `ICACHE_INVALIDATE`.
    pub icache_invalidate: bool,
    /// 41 `ICACHE_SYNCHRONIZE`.
    pub icache_synchronize: bool,
    #[bits(6)]
    __: u8,
    /// 48 `ZERO_PAGE`.
    pub zero_page: bool,
    /// 49 `COPY_PAGE`.
    pub copy_page: bool,
    /// 50:51: the upper bits of a new key.
    #[bits(2)]
    pub key_high: u8,
    /// 52:54: the lower bits of a new key.
    #[bits(3)]
    pub key_low: u8,
    /// 55: the upper bit of a new page protection.
    pub pp0: bool,
    #[bits(5)]
    __: u8,
    /// 61: new: no execute.
    pub n: bool,
    /// 62:63: the lower bits of a new page protection.
    #[bits(2)]
    pub pp: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_stand_where_linux_says() {
        let f = HcallFlags::new;
        for (name, flags, want) in [
            ("H_LARGE_PAGE", f().with_large_page(true), 1_u64 << 47),
            ("H_EXACT", f().with_exact(true), 1 << 39),
            ("H_R_XLATE", f().with_r_xlate(true), 1 << 38),
            ("H_READ_4", f().with_read_4(true), 1 << 37),
            ("H_PAGE_STATE_CHANGE", f().with_page_state_change(true), 1 << 35),
            (
                "H_PAGE_SET_LOANED",
                f().with_page_state_change(true).with_page_unused(3).with_page_loaned(true),
                15 << 32,
            ),
            ("H_AVPN", f().with_avpn(true), 1 << 31),
            ("H_ANDCOND", f().with_andcond(true), 1 << 30),
            ("H_LOCAL", f().with_local(true), 1 << 28),
            ("H_ICACHE_INVALIDATE", f().with_icache_invalidate(true), 1 << 23),
            ("H_ICACHE_SYNCHRONIZE", f().with_icache_synchronize(true), 1 << 22),
            ("H_ZERO_PAGE", f().with_zero_page(true), 1 << 15),
            ("H_COPY_PAGE", f().with_copy_page(true), 1 << 14),
            ("key", f().with_key_high(3).with_key_low(7), 0x3e00),
            ("pp0", f().with_pp0(true), 0x100),
            ("H_N, H_PP1, H_PP2", f().with_n(true).with_pp(3), 7),
        ] {
            assert_eq!(flags.into_bits(), want, "{name}");
        }
    }
}
