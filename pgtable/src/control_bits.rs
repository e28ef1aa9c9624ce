//! What each bit of an architecture's control registers does to translation: a table, by which the
//! architecture's crate accepts register values or refuses them by name.

use core::fmt;

use crate::address::low_bits;

/// What an architecture's crate makes of a control bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Walks do what the bit says.
    Modelled,
    /// The bit does not change which accesses translate, where to, and with which fault.
    None,
    /// It may, and the crate does not model it: refused by name.
    Refused,
}

/// Some bits of a control register; `R` is the architecture's enumeration of registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ControlBits<R> {
    /// The register.
    pub register: R,
    /// The lowest of the bits.
    pub first: u8,
    /// How many there are.
    pub count: u8,
    /// The manual's name.
    pub name: &'static str,
    /// What the crate makes of them.
    pub effect: Effect,
    /// The register's place in its enumeration, which constant code can compare.
    index: u8,
}

impl<R> ControlBits<R> {
    /// `count` bits of `register` from `first` on. `index` is the register's place in its
    /// enumeration (`register as u8`), counted from 0.
    #[must_use]
    pub const fn new(
        (register, index): (R, u8),
        (first, count): (u8, u8),
        name: &'static str,
        effect: Effect,
    ) -> Self
    where
        R: Copy,
    {
        Self { register, first, count, name, effect, index }
    }

    /// The bits as a mask.
    #[must_use]
    pub const fn mask(&self) -> u64 {
        low_bits(self.count) << self.first
    }
}

/// A bit that is set and not modelled, or reserved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RefusedBit<R> {
    /// The register.
    pub register: R,
    /// The bit.
    pub bit: u8,
    /// The manual's name; "reserved" if it has none.
    pub name: &'static str,
}

impl<R: fmt::Display> fmt::Display for RefusedBit<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit {} ({})", self.register, self.bit, self.name)
    }
}

/// Every defined bit of `N` registers. Bits that are in no row are reserved, and refused.
#[derive(Clone, Copy, Debug)]
pub struct ControlTable<R: 'static, const N: usize> {
    rows: &'static [ControlBits<R>],
    /// The bits of each register that must not be set.
    refused: [u64; N],
}

impl<R: Copy, const N: usize> ControlTable<R, N> {
    /// The table of these rows.
    ///
    /// # Panics
    /// If a row's register has no place below `N`: when the table is a constant, at compile time.
    #[must_use]
    pub const fn new(rows: &'static [ControlBits<R>]) -> Self {
        let mut refused = [u64::MAX; N];
        let mut row = 0;
        while row < rows.len() {
            if !matches!(rows[row].effect, Effect::Refused) {
                refused[rows[row].index as usize] &= !rows[row].mask();
            }
            row += 1;
        }
        Self { rows, refused }
    }

    /// The lowest refused bit of the value `word` of `register`, whose place in its enumeration is
    /// `index`; the bits of `also` are refused besides those of the table.
    #[must_use]
    pub const fn find(
        &self,
        (register, index): (R, u8),
        word: u64,
        also: u64,
    ) -> Option<RefusedBit<R>> {
        let set = word & (self.refused[index as usize] | also);
        if set == 0 {
            return None;
        }
        let bit = set.trailing_zeros() as u8;
        let (mut name, mut row) = ("reserved", 0);
        while row < self.rows.len() {
            let it = &self.rows[row];
            let here = it.index == index && it.mask() >> bit & 1 != 0;
            if here && matches!(it.effect, Effect::Refused) {
                name = it.name;
            }
            row += 1;
        }
        Some(RefusedBit { register, bit, name })
    }
}

/// Declares an architecture's control registers, for the [`ControlTable`] of a constant's rows.
///
/// Besides the enumeration, whose `Display` gives the manual's names, it declares two functions in
/// the module in which it is called: `bits` makes a row; `refused` returns the lowest bit of a
/// register's value that the table refuses, or that is among the bits of its last parameter.
///
/// ```
/// use pgtable::vcpu::{ControlBits, Effect};
///
/// pgtable::control_registers! {
///     /// The registers of a small processor.
///     pub enum Register: ROWS {
///         /// The mode of translation.
///         Mode = "MODE",
///     }
/// }
///
/// const ROWS: &[ControlBits<Register>] = &[
///     bits(Register::Mode, 0, 1, "ON", Effect::Modelled),
///     bits(Register::Mode, 1, 1, "KEYS", Effect::Refused),
/// ];
///
/// assert!(refused(Register::Mode, 1, 0).is_none());
/// assert_eq!(refused(Register::Mode, 3, 0).unwrap().to_string(), "MODE bit 1 (KEYS)");
/// assert_eq!(refused(Register::Mode, 4, 0).unwrap().to_string(), "MODE bit 2 (reserved)");
/// assert_eq!(refused(Register::Mode, 1, 1).unwrap().bit, 0);
/// ```
#[macro_export]
macro_rules! control_registers {
    ($(#[$about:meta])* $visible:vis enum $registers:ident: $rows:ident {
        $($(#[$doc:meta])* $register:ident = $name:literal,)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        $visible enum $registers {
            $($(#[$doc])* $register,)+
        }

        impl ::core::fmt::Display for $registers {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str(match self { $(Self::$register => $name,)+ })
            }
        }

        /// `count` bits of `register` from `first` on.
        const fn bits(
            register: $registers,
            first: u8,
            count: u8,
            name: &'static str,
            effect: $crate::vcpu::Effect,
        ) -> $crate::vcpu::ControlBits<$registers> {
            $crate::vcpu::ControlBits::new((register, register as u8), (first, count), name, effect)
        }

        /// The lowest refused bit of `word`; `also` are refused besides those of the table.
        pub(crate) const fn refused(
            register: $registers,
            word: u64,
            also: u64,
        ) -> Option<$crate::vcpu::RefusedBit<$registers>> {
            static TABLE: $crate::vcpu::ControlTable<$registers, { [$($name),+].len() }> =
                $crate::vcpu::ControlTable::new($rows);
            TABLE.find((register, register as u8), word, also)
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Register {
        One,
        Two,
    }

    impl fmt::Display for Register {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Self::One => "ONE",
                Self::Two => "TWO",
            })
        }
    }

    const fn bits(register: Register, first: u8, name: &'static str, effect: Effect) -> Row {
        Row::new((register, register as u8), (first, 2), name, effect)
    }

    type Row = ControlBits<Register>;

    static TABLE: ControlTable<Register, 2> = ControlTable::new(&[
        bits(Register::One, 0, "A", Effect::Modelled),
        bits(Register::One, 2, "B", Effect::Refused),
        bits(Register::Two, 0, "C", Effect::Refused),
        bits(Register::Two, 2, "D", Effect::None),
    ]);

    #[test]
    fn the_lowest_refused_bit_is_named() {
        use Register::{One, Two};
        for (register, word, also, want) in [
            (One, 0b11, 0, None),
            (Two, 0b1100, 0, None),
            (One, 0b1111, 0, Some((2, "B"))),
            (One, 0b1_1000, 0, Some((3, "B"))),
            (One, 1 << 63, 0, Some((63, "reserved"))),
            (Two, 0b1111, 0, Some((0, "C"))),
            (One, 0b11, 0b10, Some((1, "reserved"))),
            (Two, 0b1000, 0b10, None),
        ] {
            let found = TABLE.find((register, register as u8), word, also);
            let want = want.map(|(bit, name)| RefusedBit { register, bit, name });
            assert_eq!(found, want, "{register}: {word:#x}, also {also:#x}");
        }
        let found = TABLE.find((Two, 1), 2, 0).map(|bit| bit.to_string());
        assert_eq!(found.as_deref(), Some("TWO bit 1 (C)"));
    }
}
